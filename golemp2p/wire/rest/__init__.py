"""JSON bodies of the REST API in yagna's shapes (protocols/rest/README.md)."""
