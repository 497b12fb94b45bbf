"""File descriptors: as many as the settings allow connections, or fewer; a word when none is left."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasentinel.serving.connections.listener import RESERVED_CONNECTIONS
from datasentinel.serving.logs import RateLimitedLog, log

if TYPE_CHECKING:
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)
_shortage_log = RateLimitedLog(_logger, logging.ERROR, "out_of_descriptors")

# Listeners, pipes, libraries, files that are read again; health checks on each port.
_OWN = 64 + 4 * RESERVED_CONNECTIONS
# Connections over a limit get an answer before they are closed, and are open meanwhile.
_PER_CONNECTION = 2
_LOOK_AGAIN_S = 1.0


def within_descriptors(settings: Settings) -> Settings:
    """Raise the process's limit to what the connections need, as far as the system allows.

    Returns
    -------
    Settings
        The same, or with fewer connections where the system does not allow enough: what is left over is then
        refused in words, and health keeps its share. A log line has the numbers.
    """
    # The port of health and metrics has the limits of HTTP; Flight's few connections are within `_OWN`.
    names = [
        f"{name.replace('admin', 'http')}_max_connections" for name in settings.ports if name != "flight"
    ]
    needed = _OWN + _PER_CONNECTION * sum(getattr(settings, name) for name in names)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    share = max(0, soft - _OWN) / (needed - _OWN)
    reduced: dict[str, Any] = {name: max(1, int(getattr(settings, name) * share)) for name in names}
    log(
        _logger,
        logging.WARNING,
        "too_few_descriptors",
        limit=soft,
        needed=needed,
        **reduced,
        advice="fewer connections are accepted than set; raise `ulimit -n` or lower the settings",
    )
    return replace(settings, **reduced)


def report_shortage(error: BaseException | None) -> bool:
    """Log, at most once a second, that no descriptor is left, and return whether this is the error."""
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return False
    _shortage_log(
        reason=error.strerror,
        limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        advice="new connections are closed until one is free; raise `ulimit -n` or lower the settings",
    )
    return True


async def watch_for_shortage() -> None:
    """Check periodically, until cancelled, whether a descriptor is left.

    An event loop may close in silence what it cannot accept.
    """
    while True:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            report_shortage(error)
        await asyncio.sleep(_LOOK_AGAIN_S)
