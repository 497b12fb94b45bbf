"""TLS: the certificate, which clients may present one, and TLS on one connection without its socket."""

from __future__ import annotations

import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasentinel.serving.settings import Settings

_READ_BYTES = 1 << 16


class Tls:
    """The server's certificate and the authorities whose clients it trusts.

    Parameters
    ----------
    certificate : Path
        PEM: the server's certificate, then its intermediates; it may hold the key, too.
    key : Path, optional
        PEM, not encrypted.
    client_ca : Path, optional
        PEM: only clients with a certificate that one of these signed may connect (mutual TLS).

    Raises
    ------
    SettingsError
        A file cannot be read or used.
    """

    def __init__(self, certificate: Path, key: Path | None = None, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._contexts: list[TlsContext] = []
        self._load()  # What is wrong with the files shall be known now, not at the first connection.

    @classmethod
    def from_settings(cls, settings: Settings) -> Tls | None:
        """Read what the settings name; None without a certificate."""
        if not settings.tls_certificate:
            return None
        return cls(
            Path(settings.tls_certificate),
            Path(settings.tls_key) if settings.tls_key else None,
            Path(settings.tls_client_ca) if settings.tls_client_ca else None,
        )

    def context(self, protocols: Sequence[str]) -> TlsContext:
        """Make the context of a transport that speaks `protocols` (their ALPN names); `reload` renews it."""
        context = TlsContext(self._load(protocols), tuple(protocols))
        self._contexts.append(context)
        return context

    def reload(self) -> None:
        """Read the files again, for the connections to come. What is wrong with them changes nothing.

        Every context is made anew: one that goes on would trust an authority that was removed, and a session
        that a client of its resumes.

        Raises
        ------
        SettingsError
            A file cannot be read or used.
        """
        renewed = [self._load(context.protocols) for context in self._contexts]
        for context, current in zip(self._contexts, renewed, strict=True):
            context.current = current

    def _load(self, protocols: Sequence[str] = ()) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        if protocols:
            context.set_alpn_protocols(list(protocols))
        _require_readable(self._certificate, "tls_certificate")
        if self._key is not None:
            _require_readable(self._key, "tls_key")
        try:
            # The empty password keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, ValueError) as error:
            files = " and ".join(str(file) for file in (self._certificate, self._key) if file)
            raise SettingsError(
                f"tls_certificate, tls_key: {files}: not a PEM certificate and its unencrypted key: {error}"
            ) from error
        if self._client_ca is not None:
            _require_readable(self._client_ca, "tls_client_ca")
            try:
                context.load_verify_locations(self._client_ca)
            except ssl.SSLError as error:
                raise SettingsError(
                    f"tls_client_ca: {self._client_ca}: not PEM certificates: {error}"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@dataclass(slots=True)
class TlsContext:
    """What one transport's connections are sealed with.

    Attributes
    ----------
    current : ssl.SSLContext
        For the connections to come.
    protocols : tuple of str
        ALPN names.
    """

    current: ssl.SSLContext
    protocols: tuple[str, ...]


def _require_readable(path: Path, setting: str) -> None:
    """Name the file that cannot be read, which OpenSSL does not."""
    try:
        path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting}: {path}: cannot be read: {error.strerror or error}") from error


class TlsChannel:
    """TLS on one connection, without the socket: sealed bytes in, plain bytes out, and the other way.

    After each call, `outgoing` returns what is to be sent.

    Parameters
    ----------
    context : TlsContext
        Of a server.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "ended", "established")

    def __init__(self, context: TlsContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.current.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False
        self.ended = False  # The peer said that it will send no more.

    def receive(self, data: bytes) -> bytes:
        """Feed encrypted bytes; return the plain bytes that they complete.

        Raises
        ------
        ssl.SSLError
            The peer does not speak TLS, or shows no certificate that is trusted. `outgoing` holds the alert.
        """
        self._incoming.write(data)
        plain: list[bytes] = []
        try:
            if not self.established:
                self._object.do_handshake()
                self.established = True
            # Reading until SSLWantReadError would be simpler, but raising it costs as much as a record.
            while self._incoming.pending or self._object.pending():
                chunk = self._object.read(_READ_BYTES)
                if not chunk:
                    self.ended = True
                    break
                plain.append(chunk)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def send(self, plain: bytes) -> None:
        """Seal bytes that the peer is to receive."""
        self._object.write(plain)

    def end(self) -> None:
        """Announce the end of the stream to the peer."""
        if self.established:
            # The peer's own farewell is not here yet, or something else came first; ours is written anyway.
            with suppress(ssl.SSLError):
                self._object.unwrap()

    def outgoing(self) -> bytes:
        """Return the bytes to send, once."""
        return self._outgoing.read()
