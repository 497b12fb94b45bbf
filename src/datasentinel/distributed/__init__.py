"""Beyond one process: scoring on engines and brokers that exist, by thin adapters over the detector."""
