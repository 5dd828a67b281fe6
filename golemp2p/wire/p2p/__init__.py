"""Bodies of the msgpack rpc between nodes (protocols/*.md)."""
