"""gRPC: the native session on a connection, and the calls that it leaves to Python."""
