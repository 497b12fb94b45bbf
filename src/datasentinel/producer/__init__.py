"""Sends samples to a running server and sums up its replies.

`samples` makes them (synthetic telemetry, rows of a file, invalid ones in between), `clients` and `http`
carry them over TCP, gRPC and HTTP and `broker_client` through a broker, `run` paces them and survives a
server that goes away, `summary` counts.
"""

from datasentinel.producer.clients import PROTOCOLS, connector
from datasentinel.producer.credentials import Credentials, read_token
from datasentinel.producer.run import Producer, new_event_loop
from datasentinel.producer.samples import FileRows, Fleet, Telemetry, stream
from datasentinel.producer.summary import Summary

__all__ = [
    "PROTOCOLS",
    "Credentials",
    "FileRows",
    "Fleet",
    "Producer",
    "Summary",
    "Telemetry",
    "connector",
    "new_event_loop",
    "read_token",
    "stream",
]
