"""What a client shows and trusts: certificates and a token."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """How a client talks to a guarded server.

    Attributes
    ----------
    ca : Path or None
        PEM file of the authorities that sign the server's certificate; with it, the client speaks TLS.
    certificate, key : Path or None
        PEM files of the client's own certificate and key, for a server that asks for one.
    token : str
        Bearer token, for gRPC; the line protocol has none.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str = ""

    def __post_init__(self) -> None:
        if self.certificate is not None and self.ca is None:
            raise SettingsError(
                "a client certificate is of no use without TLS: name the server's authority, too"
            )
        if self.key is not None and self.certificate is None:
            raise SettingsError("the client's key is given, but not its certificate")

    def context(self) -> ssl.SSLContext | None:
        """Make the TLS context; None without TLS.

        Raises
        ------
        SettingsError
            A file cannot be read or used.
        """
        if self.ca is None:
            return None
        self.pem()
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.certificate, self.key) if path)
            raise SettingsError(f"{files}: not PEM certificates and an unencrypted key: {error}") from error
        return context

    def pem(self) -> tuple[bytes, bytes | None, bytes | None]:
        """Read authorities, key and certificate chain; with TLS only.

        Raises
        ------
        SettingsError
            A file cannot be read.
        """
        assert self.ca is not None  # noqa: S101
        certificate = None if self.certificate is None else _read(self.certificate)
        key = certificate if self.key is None else _read(self.key)
        return _read(self.ca), key, certificate


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_token(path: Path) -> str:
    """Read a token from the first line of a file, where a list of processes does not show it.

    Raises
    ------
    SettingsError
        The file cannot be read, or its first line is not a token.
    """
    token = _read(path).partition(b"\n")[0].decode("ascii", "replace").strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise SettingsError(f"{path}: the first line is not a token of printable ASCII")
    return token
