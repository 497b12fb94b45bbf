"""The life of one model: it is trained, scores what is due, and is trained again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from datasentinel.detector import Detector
from datasentinel.distributed.prometheus.client import Grid, ServerUnreachableError
from datasentinel.distributed.prometheus.exposition import OPERATIONS
from datasentinel.distributed.prometheus.fitting import fit, load_fitted
from datasentinel.distributed.prometheus.publishing import Source
from datasentinel.distributed.prometheus.samples import fetch
from datasentinel.distributed.prometheus.scoring import SeriesScorer
from datasentinel.distributed.prometheus.states import SeriesStates, load_states, save_states
from datasentinel.errors import ArtifactError, DataSentinelError, MissingDependencyError
from datasentinel.serving.logs import RateLimitedLog, log

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from datasentinel.distributed.prometheus.client import PrometheusClient
    from datasentinel.distributed.prometheus.config import Model
    from datasentinel.distributed.prometheus.exposition import Account
    from datasentinel.distributed.prometheus.fitting import Fitted
    from datasentinel.distributed.prometheus.publishing import Publisher
    from datasentinel.distributed.prometheus.training_process import Training

_logger = logging.getLogger(__name__)
# Rows that are asked for at once while there is something to catch up with.
_ROWS_AT_ONCE = 200_000
_ROWS_AT_FIRST = 10_000
_LONGEST_FIT_RETRY_S = 300.0


class Watcher:
    """Trains one model, scores its series and publishes the scores.

    A look at the server is all or nothing: the states move on when the scores are published and not before,
    and lie on disk after that. So a failure loses nothing, and what is published twice, after a crash in
    between, is published alike.

    Parameters
    ----------
    model : Model
    client : PrometheusClient
    publishers : sequence of Publisher
        Those that may fail come first.
    account : Account
    directory : Path
    start_training : callable
        Starts a training of a model up to a moment, whose result is then in the directory.
    stop : threading.Event
        Ends catching up.
    """

    def __init__(
        self,
        model: Model,
        *,
        client: PrometheusClient,
        publishers: Sequence[Publisher],
        account: Account,
        directory: Path,
        start_training: Callable[[Model, int], Training],
        stop: threading.Event,
    ) -> None:
        self._model = model
        self._client = client
        self._publishers = publishers
        self._account = account
        self._directory = directory
        self._start_training = start_training
        self._stop = stop
        self._states_file = directory / "states" / f"{model.name}.npz"
        self._infer_steps = max(1, round(model.infer_every / model.step))
        self._scorer: SeriesScorer | None = None
        self._states: SeriesStates | None = None
        self._fitted: Fitted | None = None
        self._training: Training | None = None
        # To be taken over: the model, and the last moment that needs no score where there is no other model.
        self._trained: tuple[Fitted, int] | None = None
        self._fit_again_s = 0.0
        self._retry_s = 0.0
        self._failed = {
            operation: RateLimitedLog(_logger, logging.ERROR, f"{operation}_failed", interval_s=30.0)
            for operation in OPERATIONS
        }

    @property
    def due_s(self) -> float:
        """When there is something to do again, seconds since 1970; the end of a training apart."""
        if self._states is None:
            return max(self._fit_again_s, self._retry_s)
        due_s = (self._states.last + self._infer_steps) * self._model.step + self._model.offset
        return max(due_s, self._retry_s)

    @property
    def is_training(self) -> bool:
        """Whether a training runs."""
        return self._training is not None

    def resume(self, now_s: float) -> None:
        """Go on with the model and the states of an earlier run, where there are any and they are sound."""
        try:
            fitted = load_fitted(self._directory, self._model)
            if fitted is None:
                return
            scorer = self._load(fitted)
        except DataSentinelError as error:
            log(_logger, logging.ERROR, "model_not_resumed", model=self._model.name, reason=str(error))
            return
        states = None
        try:
            states = load_states(self._states_file, self._model.step)
        except ArtifactError as error:
            log(_logger, logging.ERROR, "states_not_resumed", model=self._model.name, reason=str(error))
        if states is not None and states.model_sha256 == fitted.artifact.config.model_sha256:
            self._adopt(fitted, scorer, states)
        else:
            # What was scored before is not known; nothing is to be scored twice.
            self._trained = fitted, self._last_due(now_s) if states is None else states.last

    def fit_now(self, now_s: float) -> None:
        """Train, if that is due, and take the model over; errors are the caller's."""
        if self._trained is None and self._is_fit_due(now_s):
            fitted = fit(self._client, self._model, self._directory, self._last_due(now_s))
            self._trained = fitted, fitted.fitted_to
        self._take_over()

    def close(self) -> None:
        """End a training that runs."""
        if self._training is not None:
            self._training.cancel()

    def look(self, now_s: float) -> None:
        """Do what is due; what fails is counted and logged, and tried again later."""
        self._look_after_training(now_s)
        if self._scorer is not None and now_s >= self.due_s:
            self.score(now_s)

    def score(self, now_s: float) -> bool:
        """Score all moments that are due; whether that went well."""
        assert self._states is not None  # noqa: S101
        last = self._last_due(now_s)
        self._skip(last)
        while self._states.last < last and not self._stop.is_set():
            if not self._score(min(self._steps_at_once(self._states), last - self._states.last)):
                self._retry_s = now_s + min(self._model.infer_every, 60.0)
                return False
        return True

    def _score(self, count: int) -> bool:
        assert self._states is not None  # noqa: S101
        assert self._scorer is not None  # noqa: S101
        assert self._fitted is not None  # noqa: S101
        source = Source(self._model.name, self._fitted.labels, tuple(self._model.queries))
        operation = "read"
        try:
            samples = fetch(
                self._client,
                self._model.queries,
                Grid(self._model.step, self._states.last + 1, count),
                self._fitted.labels,
            )
            states = self._states.copy()
            moments = list(self._scorer.advance(states, samples))
            operation = "write"
            for publisher in self._publishers:
                publisher.publish(source, moments)
            self._states = states
            save_states(states, self._model.step, self._states_file)
        except DataSentinelError as error:
            self.fail(operation, error)
            return False
        return True

    def _skip(self, last: int) -> None:
        """Give up what is too long ago."""
        assert self._states is not None  # noqa: S101
        first = last - round(self._model.catch_up / self._model.step)
        skipped = first - self._states.last
        if skipped > 0:
            self._account.counts["moments_skipped"] += skipped
            log(_logger, logging.WARNING, "moments_skipped", model=self._model.name, moments=skipped)
            self._states.last = first

    def _look_after_training(self, now_s: float) -> None:
        is_idle = self._training is None and self._trained is None
        if is_idle and self._is_fit_due(now_s) and now_s >= self._fit_again_s:
            log(_logger, logging.INFO, "fit_begins", model=self._model.name)
            self._training = self._start_training(self._model, self._last_due(now_s))
        try:
            if self._training is not None and self._training.is_over():
                training, self._training = self._training, None
                training.result()
                fitted = load_fitted(self._directory, self._model)
                assert fitted is not None  # noqa: S101
                self._trained = fitted, fitted.fitted_to
            self._take_over()
        except MissingDependencyError:
            raise  # Time will not help.
        except DataSentinelError as error:
            self._fit_again_s = now_s + self._model.infer_every
            if not isinstance(error, ServerUnreachableError):
                # It takes more of a past.
                retry_s = min(self._model.fit_window / 100, _LONGEST_FIT_RETRY_S)
                self._fit_again_s = max(self._fit_again_s, now_s + retry_s)
            self.fail("fit", error)

    def _is_fit_due(self, now_s: float) -> bool:
        if self._fitted is None:
            return True
        age_s = now_s - self._fitted.fitted_to * self._model.step
        return 0 < self._model.fit_every <= age_s - self._model.offset

    def _take_over(self) -> None:
        """Score by a trained model from now on, whose states begin with the recent past."""
        if self._trained is None:
            return
        fitted, last = self._trained
        if self._states is not None:
            last = self._states.last
        scorer = self._load(fitted)
        states = SeriesStates.new(
            fitted.artifact.config.model_sha256,
            last - scorer.warm_up_steps - 1,
            scorer.detector.scorer.state_dim,
            len(self._model.queries),
        )
        while states.last < last:
            count = min(self._steps_at_once(states), last - states.last)
            grid = Grid(self._model.step, states.last + 1, count)
            samples = fetch(self._client, self._model.queries, grid, fitted.labels)
            for _ in scorer.advance(states, samples):
                pass
        save_states(states, self._model.step, self._states_file)
        self._adopt(fitted, scorer, states)
        self._trained = None
        self._account.fits += 1
        config = fitted.artifact.config
        log(
            _logger,
            logging.INFO,
            "fitted",
            model=self._model.name,
            version=config.version,
            rows=config.training["rows"],
            series=config.training["series"],
            threshold=f"{config.threshold:.6g}",
            warming_steps=scorer.warm_up_steps,
        )

    def _adopt(self, fitted: Fitted, scorer: SeriesScorer, states: SeriesStates) -> None:
        self._fitted, self._scorer, self._states = fitted, scorer, states
        self._account.fitted_to_s = fitted.fitted_to * self._model.step

    def _load(self, fitted: Fitted) -> SeriesScorer:
        return SeriesScorer(Detector(fitted.artifact), self._model)

    def _steps_at_once(self, states: SeriesStates) -> int:
        # How many series there are is not known before the first answer.
        return max(1, _ROWS_AT_ONCE // (len(states.keys) or _ROWS_AT_FIRST))

    def _last_due(self, now_s: float) -> int:
        return int((now_s - self._model.offset) / self._model.step + 1e-6)

    def fail(self, operation: str, error: Exception) -> None:
        """Count and log a failure of one of `OPERATIONS`, with a traceback where it is an internal error."""
        self._account.failures[operation] += 1
        fault = {} if isinstance(error, DataSentinelError) else {"exception": error}
        self._failed[operation](model=self._model.name, reason=str(error), **fault)
