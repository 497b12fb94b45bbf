"""Who may talk to the server: TLS and tokens, as every transport gets them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasentinel.errors import SettingsError
from datasentinel.serving.auth import Tokens
from datasentinel.serving.logs import log
from datasentinel.serving.tls import Tls

if TYPE_CHECKING:
    import ssl

    from datasentinel.settings import Settings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guard:
    """TLS and tokens; None where the settings ask for none.

    Attributes
    ----------
    tls : Tls or None
    tokens : Tokens or None
    """

    tls: Tls | None = None
    tokens: Tokens | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Guard:
        """Read the files that the settings name.

        Raises
        ------
        SettingsError
            A file cannot be read or used.
        """
        return cls(Tls.from_settings(settings), Tokens.from_settings(settings))

    def tls_context(self, *protocols: str) -> ssl.SSLContext | None:
        """Make the TLS context of a transport that speaks `protocols` (ALPN names), if TLS is on."""
        return None if self.tls is None else self.tls.context(protocols)

    def admits(self, authorization: str | bytes | None) -> bool:
        """Tell whether a request with this `Authorization` header, or none, may pass."""
        return self.tokens is None or self.tokens.accept(authorization)

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
