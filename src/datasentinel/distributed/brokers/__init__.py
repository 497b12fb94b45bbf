"""Message brokers behind one interface: a module for each, imported when its scheme is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from datasentinel.errors import MissingDependencyError, SettingsError

if TYPE_CHECKING:
    from types import ModuleType

    from datasentinel.distributed.brokers.base import BrokerUrl, Sink, Source

# The module of each scheme, which is its extra's name, too; it has `make_source` and `make_sink`.
_MODULES = {name: name for name in ("amqp", "kafka", "nats", "redis")}
SCHEMES = tuple(_MODULES)


def open_source(url: BrokerUrl, group: str) -> Source:
    """Make what takes messages from a broker; `open` connects it.

    Parameters
    ----------
    url : BrokerUrl
    group : str
        Consumers of one group share the messages.

    Raises
    ------
    SettingsError
        Nothing is known of the scheme, or an option is wrong.
    MissingDependencyError
        The broker's client is not installed.
    """
    source: Source = _module(url).make_source(url, group)
    return source


def open_sink(url: BrokerUrl) -> Sink:
    """Make what publishes messages to a broker; `open` connects it.

    Raises
    ------
    SettingsError, MissingDependencyError
        As for `open_source`.
    """
    sink: Sink = _module(url).make_sink(url)
    return sink


def _module(url: BrokerUrl) -> ModuleType:
    if url.scheme not in _MODULES:
        raise SettingsError(f"{url}: unknown scheme '{url.scheme}'; known: {', '.join(SCHEMES)}")
    name = _MODULES[url.scheme]
    try:
        return importlib.import_module(f"datasentinel.distributed.brokers.{name}")
    except ImportError as error:
        raise MissingDependencyError(
            f'{url.scheme}:// needs its client: pip install "datasentinel[{name}]" ({error})'
        ) from error
