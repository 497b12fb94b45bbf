"""Every error that datasentinel raises on purpose.

Errors know nothing of HTTP or gRPC; each transport maps them to its own status codes.
"""

from __future__ import annotations


class DataSentinelError(Exception):
    """Base class of all errors raised on purpose.

    Attributes
    ----------
    vendor_text : str
        The underlying library's own words, or an empty string.
    """

    vendor_text: str = ""


class InvalidInputError(DataSentinelError, ValueError):
    """A value handed in is wrong: shape, dtype, a non-finite number, an unknown name."""


class DataError(InvalidInputError):
    """A data file cannot be used: unreadable, no usable rows, a missing column."""


class DataWarning(UserWarning):
    """Data can be used, but not all that is in it; the message says what to change."""


class SettingsError(InvalidInputError):
    """A setting is unknown, malformed or contradicts another one."""


class ArtifactError(DataSentinelError, ValueError):
    """A model artifact is broken; the message names the file and the key."""


class ModelNotFoundError(DataSentinelError, FileNotFoundError):
    """No model artifact at the given path."""


class UnsupportedModelError(DataSentinelError):
    """The model is sound, but the backend asked for cannot run it."""


class BackendUnavailableError(DataSentinelError, RuntimeError):
    """The backend asked for cannot run on this machine; the message says why."""


class BackendError(DataSentinelError, RuntimeError):
    """A backend's library reported a failure."""


class OutOfMemoryError(DataSentinelError, MemoryError):
    """Host or device memory ran out."""


class ResourceExhaustedError(DataSentinelError):
    """A limit was hit: queue depth, message size, connections."""


class NotAllowedError(DataSentinelError, PermissionError):
    """The server's settings do not allow what was asked for; the message names the setting."""


class ServerError(DataSentinelError, RuntimeError):
    """The server could not start or stop as asked, for example because a port is taken."""


class BrokerError(DataSentinelError, ConnectionError):
    """A message broker cannot be reached, or did not do what it was asked to."""


class RefusedError(BrokerError):
    """A message broker will never take a message, for example because it is too large."""


class MissingDependencyError(DataSentinelError, ImportError):
    """An optional package is needed for this; the message says what to install."""
