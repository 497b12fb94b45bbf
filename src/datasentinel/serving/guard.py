"""Who may talk to the server: TLS and tokens, as every transport gets them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.errors import SettingsError
from datasentinel.serving.auth import Tokens
from datasentinel.serving.connections.tls import Tls
from datasentinel.serving.logs import RateLimitedLog, log

if TYPE_CHECKING:
    from datasentinel.serving.connections.tls import TlsContext
    from datasentinel.serving.settings import Settings

_logger = logging.getLogger(__name__)
_refusal_log = RateLimitedLog(_logger, logging.WARNING, "login_failed")


@dataclass
class Guard:
    """TLS and tokens; None where the settings ask for none.

    Attributes
    ----------
    tls : Tls or None
    tokens : Tokens or None
    failed_logins : int
        Requests since the start that showed no valid token where one was needed.
    """

    tls: Tls | None = None
    tokens: Tokens | None = None
    failed_logins: int = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Guard:
        """Read the files that the settings name.

        Raises
        ------
        SettingsError
            A file cannot be read or used.
        """
        return cls(Tls.from_settings(settings), Tokens.from_settings(settings))

    def tls_context(self, *protocols: str) -> TlsContext | None:
        """Make the TLS context of a transport that speaks `protocols` (ALPN names), if TLS is on."""
        return None if self.tls is None else self.tls.context(protocols)

    def admits(self, authorization: str | bytes | None) -> bool:
        """Return whether a request with this `Authorization` header, or none, may pass."""
        if self.tokens is None or self.tokens.accept(authorization):
            return True
        self.failed_logins += 1
        _refusal_log(reason="no token" if authorization is None else "not a valid token")
        return False

    def reload(self) -> None:
        """Read the files again. One that cannot be used is reported, and what it said before holds on."""
        if self.tokens is not None:
            self.tokens.refresh()
        if self.tls is not None:
            try:
                self.tls.reload()
            except SettingsError as error:
                log(_logger, logging.ERROR, "certificate_not_reloaded", reason=error)
            else:
                log(_logger, logging.INFO, "certificate_reloaded")
