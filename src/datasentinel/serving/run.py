"""Serving from the command line: in this process, or in several under a supervisor."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from datasentinel.serving.logs import configure_logging, log
from datasentinel.serving.process import serve
from datasentinel.serving.setting_sources import service_links

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datasentinel.serving.control.metrics import Metrics
    from datasentinel.serving.data_plane import DataPlane
    from datasentinel.serving.server import Transport
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)


def run(
    settings: Settings,
    on_ready: Callable[[Mapping[str, object]], None],
    make_transport: Callable[[DataPlane, Metrics], Transport] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal cuts the draining short.

    SIGHUP makes the server read its certificates, tokens and models again. With `settings.workers` above 1,
    so many processes serve, under a supervisor in this one.

    Parameters
    ----------
    settings : Settings
    on_ready : callable
        Called once with the addresses, when every transport listens.
    make_transport : callable, optional
        As for `Server`; not for several workers.

    Raises
    ------
    DataSentinelError
        As for `Server.start`, or a worker failed.
    """
    configure_logging(settings)
    if links := service_links(os.environ):
        log(_logger, logging.WARNING, "service_links_ignored", variables=links)
    if settings.workers > 1:
        from datasentinel.serving.supervisor import supervise

        supervise(settings, on_ready)
    else:
        serve(settings, on_ready, make_transport=make_transport)
