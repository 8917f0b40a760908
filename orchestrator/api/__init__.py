"""The HTTP API: routers by resource, problem documents, event streams, keys. Never holds a program's state."""
