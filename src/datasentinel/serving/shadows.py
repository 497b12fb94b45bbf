"""A new version of a model with memory warms up beside the old one, which answers until then.

The new version takes over as a whole and not stream by stream, so that at any time all replies are one
model's: its score, threshold, p-value and version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from datasentinel import backend
from datasentinel.streams import clock_of, rules_of

if TYPE_CHECKING:
    from datasentinel.serving.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that sees the rows of all streams of the one it is to replace, and answers no requests.

    Attributes
    ----------
    old, new : ServedModel
        Both with memory, of as many columns.
    deadline_s : float
        When it takes over, warm or not, by the clock of `time.monotonic`.
    native : datasentinel.backend.Shadow
        What the core hands the rows to.
    """

    old: ServedModel
    new: ServedModel
    deadline_s: float
    native: backend.Shadow = field(init=False)

    def __post_init__(self) -> None:
        """Make what the core hands the rows to."""
        detector = self.new.detector
        config = detector.artifact.config
        native = backend.Shadow(detector.scorer, _states(self.new), rules_of(config), clock_of(config))
        object.__setattr__(self, "native", native)

    @property
    def failure(self) -> str:
        """Why it could not score rows, or nothing."""
        return self.native.failure

    @property
    def warm_streams(self) -> int:
        """Streams that it could judge."""
        return _warm(self.new)

    @property
    def judged_streams(self) -> int:
        """Streams that the old version judges: those that are to be warm."""
        return _warm(self.old)

    @property
    def is_warm(self) -> bool:
        """Whether it could judge as many streams as the old version does."""
        return self.warm_streams >= self.judged_streams

    @property
    def memory_bytes(self) -> int:
        """Memory of the states that it keeps; it has the same bounds as those of the old version."""
        return _states(self.new).bytes

    @property
    def remaining_s(self) -> float:
        """Seconds until it takes over, warm or not."""
        return max(0.0, self.deadline_s - monotonic())

    @property
    def progress(self) -> str:
        """Say how far it is."""
        return (
            f"warms up beside version {self.old.version}, which answers until then: {self.warm_streams} of "
            f"{self.judged_streams} streams are warm; takes over in {self.remaining_s:.0f} s at the latest"
        )

    @property
    def is_due(self) -> bool:
        """Whether there is nothing to wait for any longer."""
        return self.is_warm or not self.remaining_s or bool(self.failure)


def _states(model: ServedModel) -> backend.StateStore:
    assert model.streams is not None  # noqa: S101
    return model.streams.store


def _warm(model: ServedModel) -> int:
    store = _states(model)
    return len(store) - store.warming
