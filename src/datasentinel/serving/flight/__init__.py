"""Arrow Flight: record batches in, scores out, in bulk.

pyarrow's server has threads of its own, outside the event loop. A handler reads a batch, waits for its turn,
scores it (the engine lets go of the GIL) and writes the result; gRPC's flow control holds a client back that
sends faster than it is served.
"""

from datasentinel.errors import MissingDependencyError

try:
    import pyarrow.flight  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        'flight_port needs pyarrow with Flight: pip install "datasentinel[flight]"'
    ) from error

NAME = "flight"
