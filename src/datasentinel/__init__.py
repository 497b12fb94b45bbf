"""DataSentinel: anomaly detection on live numeric data."""
