"""What all transports share: the models, the inference service, the event loop's turns, and the accounts."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING

from datasentinel.backend import RequestCounts, error_name
from datasentinel.serving.accounts import LATENCY_BOUNDS_S, TransportAccount
from datasentinel.serving.connections.turns import Turns
from datasentinel.serving.inference import Inference
from datasentinel.serving.models import ServedModels
from datasentinel.serving.settings import Settings
from datasentinel.serving.states import StreamStates

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.backend import ModelTable
    from datasentinel.detector import Detector
    from datasentinel.serving.tracing import Tracing

_TRACE_INTERVAL_S = 1.0

# What requests call a model whose artifact does not say.
_UNNAMED = "datasentinel"
_UNVERSIONED = "1"


class DataPlane:
    """Models that are being served.

    Parameters
    ----------
    detector : Detector, optional
        Served from the start, under the name and version that its artifact has.
    tracing : Tracing, optional
        Gets to know of every answer.
    settings : Settings, optional
        Limits of what is scored at once.

    Attributes
    ----------
    served : ServedModels
        The models, by name and version.
    turns : Turns
        Shares the event loop between the connections of all transports.
    ready : bool
        Whether requests are welcome: set when every transport listens, cleared when the server drains.
    reloads : dict of str to int
        Changed artifacts since the start: those that were served ("ok"), and those that could not ("failed").
    """

    def __init__(
        self,
        detector: Detector | None = None,
        tracing: Tracing | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._tracing = tracing
        self._settings = settings or Settings()
        states = StreamStates(self._settings)
        self.served = ServedModels(states, keep_recent_rows=self._settings.page)
        self.turns = Turns()
        if detector is not None:
            self.served.serve(*names_of(detector), detector)
        self.ready = False
        self._accounts: dict[str, TransportAccount] = {}
        self.reloads = {"ok": 0, "failed": 0}

    @property
    def models(self) -> ModelTable:
        """The models as native sessions see them; every protocol asks it anew for each batch."""
        return self.served.table

    @property
    def has_default(self) -> bool:
        """Whether requests that name no model can be answered."""
        return bool(self.served.versions(self.served.default_name))

    @property
    def detector(self) -> Detector:
        """The default model's latest version.

        Raises
        ------
        ModelNotFoundError
            It is not being served.
        """
        return self.served.find().detector

    @property
    def counts(self) -> dict[str, int]:
        """The models' own counters `rows`, `anomalies` and `batches`, without the warm-up."""
        return self.served.counts

    @property
    def accounts(self) -> dict[str, TransportAccount]:
        """The accounts by transport, up to date."""
        self.trace()
        return self._accounts

    def trace(self) -> None:
        """Make the spans of what native sessions have answered since they were last asked."""
        for account in self._accounts.values():
            account.refresh()

    async def trace_for_ever(self) -> None:
        """Do so again and again."""
        while True:
            await asyncio.sleep(_TRACE_INTERVAL_S)
            self.trace()

    def request_counts(self, transport: str, code_name: Callable[[int], str] = error_name) -> RequestCounts:
        """Make what a transport's native sessions count in; its account follows.

        Parameters
        ----------
        transport : str
        code_name : callable
            Maps the transport's error codes to their names.
        """
        counts = RequestCounts(LATENCY_BOUNDS_S)
        if self._tracing is not None:
            counts.trace(self._tracing.min_s)
        account = self.account(transport)

        def refresh() -> None:
            account.take(counts, code_name)
            account.queued_rows = self.inference.native.queue_depth_rows
            account.queue_waits_s = self.inference.native.queue_waits_s

        account.source = refresh
        return counts

    def account(self, transport: str) -> TransportAccount:
        """Return the account of a transport, opened at first use."""
        account = self._accounts.setdefault(transport, TransportAccount())
        if self._tracing is not None and account.observer is None:
            account.observer = self._tracing.observer(transport)
        return account

    @cached_property
    def inference(self) -> Inference:
        """The native service that scores for all transports."""
        return Inference(self.models, self._settings)


def names_of(detector: Detector) -> tuple[str, str]:
    """Return the name and version that a model's artifact carries, or those of one that does not say."""
    config = detector.artifact.config
    return config.name or _UNNAMED, config.version or _UNVERSIONED
