"""The REST server: yagna's API and golemp2p's own calls, on FastAPI and Hypercorn (trio)."""
