"""What Python answers, by `routes` (HTTP) and `methods` (gRPC): health, metadata, metrics, the repository."""
