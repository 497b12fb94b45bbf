"""What a client shows and trusts: certificates and a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.client_tls import ClientTls, read_file, read_secret
from datasentinel.errors import SettingsError

if TYPE_CHECKING:
    import ssl
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
        ClientTls(self.ca, self.certificate, self.key)

    def context(self) -> ssl.SSLContext | None:
        """Make the TLS context; None without TLS.

        Raises
        ------
        SettingsError
            A file cannot be read or used.
        """
        return None if self.ca is None else ClientTls(self.ca, self.certificate, self.key).context()

    def pem(self) -> tuple[bytes, bytes | None, bytes | None]:
        """Read authorities, key and certificate chain; with TLS only.

        Raises
        ------
        SettingsError
            A file cannot be read.
        """
        assert self.ca is not None  # noqa: S101
        certificate = None if self.certificate is None else read_file(self.certificate)
        key = certificate if self.key is None else read_file(self.key)
        return read_file(self.ca), key, certificate


def read_token(path: Path) -> str:
    """Read a token from the first line of a file, where a list of processes does not show it.

    Raises
    ------
    SettingsError
        The file cannot be read, or its first line is not a token.
    """
    token = read_secret(path, what := "a token of printable ASCII")
    if not token.isascii():
        raise SettingsError(f"{path}: the first line is not {what}")
    return token
