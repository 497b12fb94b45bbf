"""What all brokers have in common: messages, where they come from, and where they go."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from datasentinel import tasks
from datasentinel.client_tls import ClientTls, read_secret
from datasentinel.errors import BrokerError, SettingsError
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_Number = TypeVar("_Number", int, float)

_logger = logging.getLogger(__name__)

# How long `Source.take` waits for a first message: so long a consumer that stops waits at most.
TAKE_TIMEOUT_S = 1.0
# How long a broker may take to answer before it counts as gone.
REPLY_TIMEOUT_S = 10.0
# How long connections may take to close.
CLOSE_TIMEOUT_S = 10.0

# The schemes that mean another one with TLS.
TLS_SCHEMES = {"amqps": "amqp", "mqtts": "mqtt", "rediss": "redis", "tls": "nats"}
_PASSWORD_FILE = "password_file"  # noqa: S105  # the name of an option
_ENCODED = "/ ? # @ in passwords and # @ in topics must be percent-encoded (%2F %3F %23 %40)"
_TLS_OPTIONS = ("tls_ca", "tls_certificate", "tls_key")


class Message(NamedTuple):
    """A message as a broker delivered it.

    Attributes
    ----------
    payload : bytes
    key : str
        Which series it belongs to, as far as the broker knows: a key, a subject, a topic; may be empty.
    position : str
        Where it stands in its source, the same each time it is delivered; empty where the broker does not
        number messages.
    headers : mapping of str to str
    is_repeat : bool
        Whether the broker says that it delivered it before.
    handle : object
        What the source needs to acknowledge it.
    deliveries : int
        How often it has been delivered, this time included; 0 where the broker does not count.
    """

    payload: bytes
    key: str
    position: str
    headers: Mapping[str, str]
    is_repeat: bool
    handle: Any
    deliveries: int = 0


class Record(NamedTuple):
    """A message to publish.

    Attributes
    ----------
    payload : bytes
    key : str
        Where the broker keeps the order of messages of one key, it is by this.
    id : str
        The same for a repeat, so that it can be dropped.
    headers : mapping of str to str
    """

    payload: bytes
    key: str
    id: str
    headers: Mapping[str, str]


class Source(ABC):
    """Takes messages from a broker; used by one task."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, and make what is missing at the broker.

        Raises
        ------
        BrokerError
            The broker cannot be reached, or refuses.
        """

    @abstractmethod
    async def take(self, most: int) -> list[Message]:
        """Return the messages that are there, at most `most`; wait a second at most for the first one.

        A lost connection is restored.

        Raises
        ------
        BrokerError
            The broker cannot be reached now; asking again may help.
        """

    @abstractmethod
    async def acknowledge(self, messages: Sequence[Message]) -> None:
        """Tell the broker that these messages, all of one `take`, need not be delivered again.

        Raises
        ------
        BrokerError
            It could not be reached: it will deliver them again.
        """

    async def lag(self) -> int | None:
        """Return how many messages of the group are not acknowledged yet, or None where the broker is silent.

        Unlike the other methods it may be called while one of them is awaited.

        Raises
        ------
        BrokerError
            The broker cannot be reached now.
        """
        return None

    @abstractmethod
    async def close(self) -> None:
        """Disconnect; what was not acknowledged is delivered to others, or again. Never raises."""


class Sink(ABC):
    """Publishes messages to a broker; used by one task."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, and make what is missing at the broker.

        Raises
        ------
        BrokerError
            The broker cannot be reached, or refuses.
        """

    @abstractmethod
    async def publish(self, records: Sequence[Record]) -> None:
        """Publish in this order, and return when the broker has confirmed all.

        Raises
        ------
        RefusedError
            It will never take one of them; others may have been published.
        BrokerError
            It did not confirm all of them; publishing all again may help.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. Never raises."""


async def close(*ends: Source | Sink) -> None:
    """Disconnect, all at the same time; a client that takes too long is left behind."""
    if not await tasks.within(CLOSE_TIMEOUT_S, *(end.close() for end in ends)):
        log(_logger, logging.WARNING, "not_disconnected", timeout_s=CLOSE_TIMEOUT_S)


@dataclass(frozen=True)
class BrokerUrl:
    """Where messages come from or go: `scheme://user:password@host:port/topic?option=value`.

    Attributes
    ----------
    scheme : str
    host : str
    port : int or None
    user, password : str or None
    topic : str
        What the broker calls a subject, a topic, a stream or a queue.
    options : mapping of str to str
        Those of the broker alone; of the options that all have, `password_file` is read, and `tls_ca`,
        `tls_certificate` and `tls_key` are in `tls`.
    tls : ClientTls or None
        What is trusted and shown; None for a connection that others on its way can read.
    """

    scheme: str
    host: str
    port: int | None
    user: str | None
    password: str | None = field(repr=False)
    topic: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ClientTls | None = None

    @classmethod
    def parse(cls, text: str) -> BrokerUrl:
        """Read a URL.

        Raises
        ------
        SettingsError
            It has no scheme, host or topic, or names files that cannot be used.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:  # Whose text may quote a part of the password.
            raise SettingsError(
                f"'{_without_password(text)}' is no URL of a broker: host or port cannot be read; {_ENCODED}"
            ) from None
        if "#" in text or "@" in parts.path:
            raise SettingsError(f"'{_without_password(text)}' is no URL of a broker: {_ENCODED}")
        topic = unquote(parts.path.lstrip("/"))
        if not (parts.scheme and parts.hostname and topic):
            raise SettingsError(
                f"'{_without_password(text)}' is no URL of a broker: scheme://host:port/topic is expected, "
                "such as nats://127.0.0.1:4222/telemetry"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        user, password = (
            None if part is None else unquote(part) for part in (parts.username, parts.password)
        )
        if (file := options.pop(_PASSWORD_FILE, None)) is not None:
            if password is not None:
                raise SettingsError(f"'{_without_password(text)}' has a password as well as a file of it")
            password = read_secret(Path(file), "a password")
        files = [Path(file) if (file := options.pop(name, None)) else None for name in _TLS_OPTIONS]
        scheme = TLS_SCHEMES.get(parts.scheme, parts.scheme)
        tls = None
        if scheme != parts.scheme or any(files):
            tls = ClientTls(*files)
            tls.context()
        return cls(scheme, parts.hostname, port, user, password, topic, options, tls)

    def __str__(self) -> str:
        """Return the URL without user and password, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{f':{self.port}' if self.port else ''}/{self.topic}"

    def with_topic(self, topic: str) -> BrokerUrl:
        """Return the URL of another topic at the same broker."""
        return replace(self, topic=topic)

    @property
    def dead_letters(self) -> BrokerUrl:
        """Where what has no result goes by default, if this is where results go."""
        return self.with_topic(f"{self.topic}.dead")

    def check_options(self, known: Sequence[str]) -> None:
        """Refuse options that the broker does not have.

        Raises
        ------
        SettingsError
            There is one; the known ones are named.
        """
        for name in self.options:
            if name not in known:
                raise SettingsError(f"{self}: option '{name}' is unknown; known: {', '.join(known)}")

    def number(self, name: str, default: _Number, *, minimum: float) -> _Number:
        """Return an option that is a number of the default's type.

        Raises
        ------
        SettingsError
            It is no such number, or too small.
        """
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = type(default)(text)
        except ValueError:
            value = None
        if value is None or not value >= minimum:
            raise SettingsError(
                f"{self}: option '{name}': a number of at least {minimum} is expected, got '{text}'"
            )
        return value


def _without_password(text: str) -> str:
    """Return what of a text is surely no part of a password, be it ill-formed."""
    scheme, _, rest = text.rpartition("://") if text.count("://") == 1 else ("", "", "")
    place = rest.partition("?")[0]  # Options may hold passwords, too.
    if rest.count("@") == 1 and "@" in place:
        return f"{scheme}://…@{place.partition('@')[2]}"
    return f"{scheme}://…"


@contextmanager
def broker_errors(url: BrokerUrl, *kinds: type[Exception]) -> Iterator[None]:
    """Turn the errors of a client into ours, which name the broker.

    Raises
    ------
    BrokerError
        For an error of these kinds, one of the connection's, or a reply that takes too long.
    """
    expected: tuple[type[Exception], ...] = (*kinds, OSError)
    try:
        yield
    except expected as error:
        if isinstance(error, BrokerError):
            raise
        raise BrokerError(f"{url}: {str(error) or type(error).__name__}") from error
