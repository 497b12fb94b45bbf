"""File descriptors: as many as the settings allow connections, or fewer connections."""

from __future__ import annotations

import logging
import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)

# Listeners, pipes, libraries, files that are read anew.
_OWN = 64
# Connections over a limit are told so before they are closed, and meanwhile are open, too.
_PER_CONNECTION = 2


def within_descriptors(settings: Settings) -> Settings:
    """Raise the process's limit to what the connections need, as far as the system allows.

    Returns
    -------
    Settings
        The same, or with fewer connections where the system does not allow enough: what is left over is then
        refused in words, and health keeps its share. A log line tells the numbers.
    """
    names = [f"{name}_max_connections" for name in ("tcp", "grpc", "http") if getattr(settings, name)]
    wanted = {name: getattr(settings, name) for name in names}
    needed = _OWN + _PER_CONNECTION * sum(wanted.values())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    share = max(0, soft - _OWN) / (needed - _OWN)
    reduced: dict[str, Any] = {name: max(1, int(count * share)) for name, count in wanted.items()}
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
