"""Bearer tokens: which requests may pass."""

from __future__ import annotations

import hmac
import logging
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from datasentinel.errors import SettingsError
from datasentinel.serving.logs import log
from datasentinel.serving.stamps import stamp_of

if TYPE_CHECKING:
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)

CHALLENGE = 'Bearer realm="datasentinel"'
REFUSAL = "a valid bearer token is needed: Authorization: Bearer <token>"

_SCHEME = b"bearer"
_LOOK_AGAIN_S = 1.0


class Tokens:
    """The tokens of a file, one a line; blank lines and lines that start with # are passed over.

    Only digests are kept and compared, so neither memory nor timing reveals a token or its length. The file
    is read again when it changes: one without tokens revokes all; while it cannot be read, the tokens read
    last stay valid.

    Parameters
    ----------
    path : Path

    Raises
    ------
    SettingsError
        The file cannot be read, is not UTF-8 or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = stamp_of(path)
        self._digests = _digests(path)
        if not self._digests:
            raise SettingsError(f"token_file: {path}: holds no token")
        self._next_look_s = monotonic() + _LOOK_AGAIN_S

    @classmethod
    def from_settings(cls, settings: Settings) -> Tokens | None:
        """Read the file that the settings name; None without one: everybody may pass."""
        return cls(Path(settings.token_file)) if settings.token_file else None

    def accept(self, authorization: str | bytes | None) -> bool:
        """Return whether an `Authorization` header, or gRPC's metadata of that name, holds a valid token."""
        if monotonic() >= self._next_look_s:
            self.refresh()
        if authorization is None:
            return False
        if isinstance(authorization, str):
            authorization = authorization.encode("latin-1", "replace")
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != _SCHEME:
            return False
        digest = sha256(token.strip()).digest()
        # No early exit: which token of the file it was does not show in the time either.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        self._next_look_s = monotonic() + _LOOK_AGAIN_S
        stamp = stamp_of(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = _digests(self._path)
        except SettingsError as error:
            log(_logger, logging.ERROR, "tokens_not_reloaded", reason=error)
        else:
            log(_logger, logging.INFO, "tokens_reloaded", file=self._path, tokens=len(self._digests))


def _digests(path: Path) -> list[bytes]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"token_file: {path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"token_file: {path}: not UTF-8: {error}") from error
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [sha256(token.encode()).digest() for token in tokens]
