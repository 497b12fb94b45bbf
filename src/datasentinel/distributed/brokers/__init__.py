"""Message brokers behind one interface: a module for each, imported when its scheme is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from datasentinel.errors import MissingDependencyError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.distributed.brokers.base import BrokerUrl, Sink, Source

# The source and the sink of each scheme, which is also the name of their module and of its extra.
_CLASSES = {
    "amqp": ("AmqpSource", "AmqpSink"),
    "kafka": ("KafkaSource", "KafkaSink"),
    "mqtt": ("MqttSource", "MqttSink"),
    "nats": ("NatsSource", "NatsSink"),
    "redis": ("RedisSource", "RedisSink"),
}
SCHEMES = tuple(_CLASSES)


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
    make_source, _ = _classes(url)
    return make_source(url, group)


def open_sink(url: BrokerUrl) -> Sink:
    """Make what publishes messages to a broker; `open` connects it.

    Raises
    ------
    SettingsError, MissingDependencyError
        As for `open_source`.
    """
    _, make_sink = _classes(url)
    return make_sink(url)


def _classes(url: BrokerUrl) -> tuple[Callable[[BrokerUrl, str], Source], Callable[[BrokerUrl], Sink]]:
    if url.scheme not in _CLASSES:
        raise SettingsError(f"{url}: unknown scheme '{url.scheme}'; known: {', '.join(SCHEMES)}")
    try:
        module = importlib.import_module(f"datasentinel.distributed.brokers.{url.scheme}")
    except ImportError as error:
        raise MissingDependencyError(
            f'{url.scheme}:// needs its client: pip install "datasentinel[{url.scheme}]" ({error})'
        ) from error
    source, sink = _CLASSES[url.scheme]
    return getattr(module, source), getattr(module, sink)
