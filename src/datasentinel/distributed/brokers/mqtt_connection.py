"""A connection to an MQTT 5 broker: what it says of each message, from the client's thread to the event loop.

A lost connection is followed by another one, so that no acknowledgement reaches a connection that knows
nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from paho.mqtt import MQTTException
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from datasentinel.distributed.brokers.base import (
    REPLY_TIMEOUT_S,
    TAKE_TIMEOUT_S,
    BrokerUrl,
    Record,
    broker_errors,
)
from datasentinel.errors import BrokerError, RefusedError
from datasentinel.serving import threads
from datasentinel.serving.logs import RateLimitedLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from paho.mqtt.client import MQTTMessage
    from paho.mqtt.reasoncodes import ReasonCode

_logger = logging.getLogger(__name__)

_DEFAULT_PORT, _DEFAULT_TLS_PORT = 1883, 8883
_AT_LEAST_ONCE = 1
# The broker closes the session of a consumer that hangs after one and a half of them.
_KEEPALIVE_S = 10
_NO_MATCHING_SUBSCRIBERS = 0x10
# Ends of a connection that come from what was sent, and would come again: protocol error, packet too large,
# payload format invalid. The first is also paho's own word for an answer that it cannot read, and such is
# Mosquitto's to what exceeds its `message_size_limit`: a PUBACK with a code that no PUBACK has.
_REFUSALS = frozenset({0x82, 0x95, 0x99})
# What a packet has besides topic, properties and payload, at most.
_HEAD_BYTES = 16
_LARGEST_PACKET = 0x0FFFFFFF
_LONGEST_TEXT = 0xFFFF
# What the standard lets a broker hang up for: control characters and those that are none.
_NOT_IN_TEXT = re.compile(
    "[\0-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(17))
    + "]"
)
# A topic without subscribers: to end the subscription has no effect but the broker's answer.
_NOTHING = "datasentinel/nothing"


class Connection:
    """A connection from when it is made until it is lost; all its methods are for the event loop."""

    def __init__(self, url: BrokerUrl, client_id: str, *, session_expiry_s: int, in_flight: int) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._change = asyncio.Event()
        self._is_closed = False
        self._is_accepted = False
        self._is_subscribed = False
        self._has_read_all = False
        self._failure = ""
        self._is_refusal = False
        self._unconfirmed = 0
        self._largest_packet = _LARGEST_PACKET
        self._overflow_log = RateLimitedLog(_logger, logging.WARNING, "messages_dropped")
        self.arrived: deque[MQTTMessage] = deque()
        self.has_unheard = False  # Whether something was published that has no subscriber.
        self._in_flight = self._most_arrived = in_flight
        self._properties = Properties(PacketTypes.CONNECT)
        self._properties.SessionExpiryInterval = session_expiry_s
        self._properties.ReceiveMaximum = in_flight
        self._client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(0)  # `publish` counts them itself, by what the broker says.
        if url.user is not None:
            client.username_pw_set(url.user, url.password)
        if url.tls is not None:
            client.tls_set_context(url.tls.context())
        client.on_socket_open = _send_at_once
        client.on_connect = self._on_loop(self._note_welcome)
        client.on_disconnect = self._on_loop(self._note_loss)
        client.on_subscribe = self._on_loop(self._note_subscription)
        client.on_unsubscribe = self._on_loop(self._note_end)
        client.on_publish = self._on_loop(self._note_confirmation)
        client.on_message = self._on_loop(self._note_message)

    async def open(self, *, clean_start: bool, subscription: str = "") -> None:
        """Connect, and subscribe where that is asked for.

        Raises
        ------
        BrokerError
            The broker cannot be reached, or refuses.
        """
        try:
            with broker_errors(self._url, ValueError, MQTTException):
                await threads.finish(lambda: self._connect(clean_start=clean_start), "mqtt-connect")
            self._client.loop_start()
            await self._until(lambda: self._is_accepted)
            if subscription:
                self._client.subscribe(subscription, _AT_LEAST_ONCE)
                await self._until(lambda: self._is_subscribed)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect, after the broker has read what was sent before. Never raises."""
        self._is_closed = True
        # A socket that is closed with something unread may take what was written to it along.
        try:
            with contextlib.suppress(BrokerError):
                if self._is_accepted:
                    self._client.unsubscribe(_NOTHING)
                    await self._until(lambda: self._has_read_all)
        finally:
            self._client.disconnect()
            await threads.finish(self._client.loop_stop, "mqtt-stop")

    @property
    def is_lost(self) -> bool:
        """Whether another one is needed."""
        return bool(self._failure)

    def check(self) -> None:
        """Raise BrokerError if the connection is lost."""
        if self._failure:
            raise BrokerError(f"{self._url}: {self._failure}")

    async def wait_for_messages(self) -> None:
        """Wait a second at most for `arrived` to hold one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKE_TIMEOUT_S):
                await self._until(lambda: bool(self.arrived), timeout_s=None)

    async def publish(self, topic: str, records: Sequence[Record], *, singly: bool) -> None:
        """Publish in order, many ahead or each when the one before is confirmed; return when all are.

        Raises
        ------
        RefusedError
            The broker will not take one of them; it may have hung up.
        BrokerError
            Not all were confirmed.
        """
        told = [_properties_of(record) for record in records]
        for record, properties in zip(records, told, strict=True):
            size = _HEAD_BYTES + len(topic.encode()) + len(properties.pack()) + len(record.payload)
            if size > self._largest_packet:
                raise RefusedError(f"{self._url}: {size} bytes; it takes {self._largest_packet}")
        self.check()
        try:
            for record, properties in zip(records, told, strict=True):
                await self._until(lambda: self._unconfirmed < (1 if singly else self._in_flight))
                self._client.publish(topic, record.payload, _AT_LEAST_ONCE, properties=properties)
                self._unconfirmed += 1
            await self._until(lambda: not self._unconfirmed)
        except BrokerError as error:
            if not self._is_refusal:
                raise
            raise RefusedError(f"{error}: perhaps it is larger than the broker takes") from error

    def acknowledge(self, number: int) -> None:
        """Say that a message has been answered."""
        self._client.ack(number, _AT_LEAST_ONCE)

    def _connect(self, *, clean_start: bool) -> None:
        default_port = _DEFAULT_PORT if self._url.tls is None else _DEFAULT_TLS_PORT
        self._client.connect(
            self._url.host,
            self._url.port or default_port,
            _KEEPALIVE_S,
            clean_start=clean_start,
            properties=self._properties,
        )
        if self._is_closed:  # Whoever wanted the connection has not waited for it.
            self._client.disconnect()

    async def _until(self, is_so: Callable[[], bool], timeout_s: float | None = REPLY_TIMEOUT_S) -> None:
        """Wait until the broker has said something, which it must not take long to say."""
        self.check()
        while not is_so():
            self._change.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._change.wait()
            except TimeoutError:
                raise BrokerError(f"{self._url}: no answer for {REPLY_TIMEOUT_S:g} s") from None
            self.check()

    def _on_loop(self, note: Callable[..., None]) -> Callable[..., None]:
        """Return what has a callback of the client's thread run on the event loop."""

        def run(*arguments: object) -> None:
            note(*arguments)
            self._change.set()

        def call(*arguments: object) -> None:
            with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
                self._loop.call_soon_threadsafe(run, *arguments)

        return call

    def _note_welcome(
        self, _client: object, _data: object, _flags: object, code: ReasonCode, told: Properties | None
    ) -> None:
        if code.is_failure:
            self._failure = str(code)
        else:
            self._is_accepted = True
            self._in_flight = min(self._in_flight, getattr(told, "ReceiveMaximum", self._in_flight))
            self._largest_packet = getattr(told, "MaximumPacketSize", self._largest_packet)

    def _note_loss(
        self, _client: object, _data: object, _flags: object, code: ReasonCode, _told: object
    ) -> None:
        event = "the connection is lost" if self._is_accepted else "the broker hung up and did not say why"
        self._fail(f"{event} ({code})", code)

    def _note_subscription(
        self, _client: object, _data: object, _number: int, codes: Sequence[ReasonCode], _told: object
    ) -> None:
        self._is_subscribed = True
        if codes[0].is_failure:
            self._failure = f"the subscription is refused: {codes[0]}"

    def _note_end(self, *_: object) -> None:
        self._has_read_all = True

    def _note_confirmation(
        self, _client: object, _data: object, _number: int, code: ReasonCode, _told: object
    ) -> None:
        self._unconfirmed -= 1
        self.has_unheard = self.has_unheard or code.value == _NO_MATCHING_SUBSCRIBERS
        if code.is_failure:
            self._fail(str(code), code)

    def _fail(self, reason: str, code: ReasonCode) -> None:
        if not self._failure:
            self._failure = reason
            self._is_refusal = code.value in _REFUSALS

    def _note_message(self, _client: object, _data: object, message: MQTTMessage) -> None:
        # Of those that it wants acknowledged the broker does not send more ahead.
        if message.qos or len(self.arrived) < self._most_arrived:
            self.arrived.append(message)
        else:
            self._overflow_log(topic=message.topic, reason="quality of service 0 faster than they are scored")


def _properties_of(record: Record) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    told = {**record.headers, "id": record.id, "key": record.key}
    properties.UserProperty = [(_text(name), _text(value)) for name, value in told.items()]
    return properties


def _text(text: str) -> str:
    """Return what of a text a property can hold."""
    encoded = _NOT_IN_TEXT.sub(" ", text).encode(errors="replace")
    return encoded[:_LONGEST_TEXT].decode(errors="ignore")


def _send_at_once(_client: object, _data: object, sock: Any) -> None:  # noqa: ANN401
    """Keep the kernel from holding small packets back until the last one has been acknowledged."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
