"""Message types and nothing else: p2p (msgpack) and rest (JSON, yagna's shapes)."""
