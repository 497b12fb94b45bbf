"""HTTP/1.1: the native session on a connection."""
