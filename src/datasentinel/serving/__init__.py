"""The server: one data plane, the transports in front of it, and their lifecycle."""
