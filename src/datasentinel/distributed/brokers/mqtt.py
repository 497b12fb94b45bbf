"""MQTT 5 with quality of service 1: a subscription that a group shares, in sessions that the broker keeps."""

from __future__ import annotations

import logging
import secrets
import socket
from typing import TYPE_CHECKING

from datasentinel.distributed.brokers.base import BrokerUrl, Message, Record, Sink, Source
from datasentinel.distributed.brokers.mqtt_connection import Connection
from datasentinel.errors import BrokerError, RefusedError, SettingsError
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from paho.mqtt.client import MQTTMessage

_logger = logging.getLogger(__name__)

_OPTIONS = ("client_id", "session_expiry_s", "shared", "in_flight")
_WILDCARDS = "+#"


class MqttSource(Source):
    """A member of a shared subscription, whose session outlives its connection.

    Parameters
    ----------
    url : BrokerUrl
        Its topic may have wildcards; its options are `client_id`, by which the broker knows the session again
        (by default group, host and topic), `session_expiry_s`, how long it keeps it, `in_flight`, how many
        messages it sends ahead, and `shared`, 0 for a subscription of its own.
    group : str
        The name of the shared subscription.
    """

    def __init__(self, url: BrokerUrl, group: str) -> None:
        url.check_options(_OPTIONS)
        if not group or any(character in group for character in f"/{_WILDCARDS}"):
            raise SettingsError(f"group '{group}': a shared subscription has a name without any of / + #")
        self._url = url
        is_shared = url.number("shared", 1, minimum=0)
        self._subscription = f"$share/{group}/{url.topic}" if is_shared else url.topic
        self._client_id = url.options.get("client_id", f"{group}-{socket.gethostname()}-{url.topic}")
        self._session_expiry_s = url.number("session_expiry_s", 86_400, minimum=1)
        self._in_flight = _in_flight(url)
        self._connection: Connection | None = None

    async def open(self) -> None:
        """See `Source.open`."""
        connection = Connection(
            self._url,
            self._client_id,
            session_expiry_s=self._session_expiry_s,
            in_flight=self._in_flight,
        )
        await connection.open(clean_start=False, subscription=self._subscription)
        self._connection = connection

    async def take(self, most: int) -> list[Message]:
        """See `Source.take`."""
        if self._connection is None:
            await self.open()
        connection = self._connection
        assert connection is not None  # noqa: S101
        try:
            await connection.wait_for_messages()
        except BrokerError:
            await self.close()
            raise
        arrived = connection.arrived
        return [_message_of(arrived.popleft(), connection) for _ in range(min(most, len(arrived)))]

    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `Source.acknowledge`."""
        for message in messages:
            connection, number = message.handle
            connection.check()
            if number:
                connection.acknowledge(number)

    async def close(self) -> None:
        """See `Source.close`; the session keeps what was not acknowledged for whoever has its name next."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class MqttSink(Sink):
    """Publishes to a topic, with the broker's word for each message.

    Parameters
    ----------
    url : BrokerUrl
        Its option is `in_flight`, how many messages may wait for that word; the broker may want fewer.
    """

    def __init__(self, url: BrokerUrl) -> None:
        url.check_options(_OPTIONS)
        if any(character in url.topic for character in _WILDCARDS):
            raise SettingsError(f"{url}: messages are published to a topic without wildcards")
        self._url = url
        self._in_flight = _in_flight(url)
        self._connection: Connection | None = None
        self._is_wary = False  # After a connection was lost, until messages are confirmed again.
        self._unheard_log = RateLimitedLog(_logger, logging.WARNING, "nobody_subscribes")

    async def open(self) -> None:
        """See `Sink.open`."""
        name = f"datasentinel-{secrets.token_hex(8)}"
        connection = Connection(self._url, name, session_expiry_s=0, in_flight=self._in_flight)
        await connection.open(clean_start=True)
        self._connection = connection

    async def publish(self, records: Sequence[Record]) -> None:
        """See `Sink.publish`."""
        try:
            await self._publish(records)
        except RefusedError:
            if len(records) > 1 or self._connection is not None:
                raise
            # The broker hung up on this one alone; if that had another cause, a fresh connection takes it.
            await self._publish(records)

    async def _publish(self, records: Sequence[Record]) -> None:
        if self._connection is None:
            await self.open()
        connection = self._connection
        assert connection is not None  # noqa: S101
        try:
            await connection.publish(self._url.topic, records, singly=self._is_wary)
        except BrokerError as error:
            if connection.is_lost or not isinstance(error, RefusedError):
                # While more is being written, the broker's reason for hanging up may be lost unread: next
                # time, no message is sent before the last one is confirmed.
                self._is_wary = True
                await self.close()
            raise
        self._is_wary = False
        if connection.has_unheard:
            connection.has_unheard = False
            self._unheard_log(topic=self._url, reason="the broker drops what no session has subscribed to")

    async def close(self) -> None:
        """See `Sink.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _in_flight(url: BrokerUrl) -> int:
    return min(url.number("in_flight", 2048, minimum=1), 65_535)


def _message_of(message: MQTTMessage, connection: Connection) -> Message:
    headers = dict(getattr(message.properties, "UserProperty", ()))
    key = headers.pop("key", "") or message.topic
    number = message.mid if message.qos else 0  # 0 for what is not acknowledged.
    return Message(bytes(message.payload), key, "", headers, message.dup, (connection, number))
