"""What a client of a guarded server trusts and shows: certificates, and secrets that lie in files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class ClientTls:
    """TLS as a client speaks it: the server's certificate is always checked.

    Attributes
    ----------
    ca : Path or None
        PEM file of the authorities that sign the server's certificate; the system's by default.
    certificate, key : Path or None
        PEM files of the client's own certificate and key, for a server that asks for one; the key may lie in
        the certificate's file.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise SettingsError("the client's key is given, but not its certificate")

    def context(self) -> ssl.SSLContext:
        """Make the TLS context.

        Raises
        ------
        SettingsError
            A file cannot be read or used.
        """
        files = [path for path in (self.ca, self.certificate, self.key) if path is not None]
        for path in files:
            read_file(path)
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            names = ", ".join(map(str, files))
            raise SettingsError(f"{names}: not PEM certificates and an unencrypted key: {error}") from error
        return context


def read_file(path: Path) -> bytes:
    """Read a file of certificates or secrets.

    Raises
    ------
    SettingsError
        It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_secret(path: Path, what: str) -> str:
    """Read a secret from the first line of a file, where a list of processes does not show it.

    Parameters
    ----------
    path : Path
    what : str
        What it is, for messages.

    Raises
    ------
    SettingsError
        The file cannot be read, or its first line is empty or no text.
    """
    secret = read_file(path).partition(b"\n")[0].decode("utf-8", "replace").strip()
    if not secret.isprintable() or not secret:
        raise SettingsError(f"{path}: the first line is not {what}")
    return secret
