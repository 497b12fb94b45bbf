"""Which artifacts are served under each name, and when those that were loaded take over from them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from datasentinel.artifact import is_version
from datasentinel.serving.control.preparation import Candidate, Pending, Served
from datasentinel.serving.data_plane import names_of
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from pathlib import Path

    from datasentinel.detector import Detector
    from datasentinel.serving.control.preparation import Preparation, Stamps
    from datasentinel.serving.data_plane import DataPlane

_logger = logging.getLogger(__name__)

_MODEL_FACTS = ("directory", "input_dim", "threshold", "backend")


class Succession:
    """Lets artifacts take over from those served before, at once or when they have warmed up.

    Each switch is one step on the event loop. The callers of all methods hold the repository's lock.

    Parameters
    ----------
    root : Path
        The repository.
    plane : DataPlane
        Where the models are served.
    preparation : Preparation
        Which is told of artifacts that fail while they warm up.
    stream_shadow_s : float
        As for `ModelRepository`.

    Attributes
    ----------
    served : dict of Path to Served
        The artifacts that are served.
    pending : dict of str to Pending
        By name, those that warm up in the shadow of others.
    own_name : str
        Of a root that is one model itself: the name that its artifact had first.
    """

    def __init__(
        self, root: Path, plane: DataPlane, preparation: Preparation, *, stream_shadow_s: float
    ) -> None:
        self.served: dict[Path, Served] = {}
        self.pending: dict[str, Pending] = {}
        self.own_name = ""
        self._root = root
        self._plane = plane
        self._preparation = preparation
        self._stream_shadow_s = stream_shadow_s

    def candidate(self, name: str, folder: Path, stamps: Stamps) -> Candidate | None:
        """Return an artifact that is served as it is now, or is loaded and waits for that."""
        served = self.served.get(folder)
        if served is not None and served.stamps == stamps:
            return Candidate(folder, stamps)
        for candidate in self.pending[name].candidates if name in self.pending else ():
            if candidate.detector is not None and (candidate.folder, candidate.stamps) == (folder, stamps):
                return candidate
        return None

    async def serve(self, name: str, candidates: list[Candidate]) -> None:
        """Serve exactly these artifacts under a name, at once or when the last one has warmed up."""
        called = name
        for candidate in candidates:
            if candidate.detector is not None:
                called, _ = self._names_of(candidate.folder, candidate.detector, called)
                await self._plane.served.states.restore(called, candidate.detector)
        if not self._waits(name, candidates):
            self._switch(name, candidates)
            # Only now: what is served may go on with the states of a shadow.
            self._plane.served.end_shadow(name)

    def withdraw(self, name: str) -> None:
        """Serve no version of a model any longer, and none that waits.

        Raises
        ------
        ModelNotFoundError
            None is being served.
        """
        served = self._plane.served
        served.find(name)
        self.pending.pop(name, None)
        served.end_shadow(name)
        for version in served.versions(name):
            self._withdraw(name, version)
        self.served = {folder: entry for folder, entry in self.served.items() if entry.name != name}
        served.states.forget_restored(name)

    def end_due_shadows(self) -> None:
        """Serve what has warmed up, or ran out of time; drop what failed."""
        for name, pending in list(self.pending.items()):
            if pending.shadow.is_due:
                self._end_shadow(name, pending)

    # ---------------------------------------------------------------------------------------------- inside

    def _waits(self, name: str, candidates: list[Candidate]) -> bool:
        """Return whether the last artifact warms up first, beside the version that it replaces."""
        served, latest = self._plane.served, candidates[-1]
        pending = self.pending.pop(name, None)
        if latest.detector is not None:
            if pending is not None and pending.candidates[-1].detector is latest.detector:
                self.pending[name] = pending
                pending.candidates = candidates
                return True
            _, version = self._names_of(latest.folder, latest.detector, name)
            shadow = served.warm_in_shadow(name, version, latest.detector, self._stream_shadow_s)
            if shadow is not None:
                self.pending[name] = Pending(candidates, version, shadow)
                log(
                    _logger,
                    logging.INFO,
                    "model_warms_in_shadow",
                    name=name,
                    version=version,
                    of_version=shadow.old.version,
                    streams=shadow.judged_streams,
                    at_most_s=self._stream_shadow_s,
                )
                return True
        if pending is not None:
            log(_logger, logging.INFO, "shadow_dropped", name=name, version=pending.version)
        return False

    def _end_shadow(self, name: str, pending: Pending) -> None:
        del self.pending[name]
        shadow, latest = pending.shadow, pending.candidates[-1]
        if shadow.failure:
            self._plane.served.end_shadow(name)
            self._preparation.note_failure(name, latest.folder, latest.stamps, shadow.failure)
            return
        log(
            _logger,
            logging.INFO,
            "model_leaves_shadow",
            name=name,
            version=pending.version,
            warm_streams=shadow.warm_streams,
            judged_streams=shadow.judged_streams,
        )
        self._switch(name, pending.candidates)

    def _switch(self, name: str, candidates: list[Candidate]) -> None:
        """Serve exactly these artifacts under a name, the last one as the latest version."""
        served = self._plane.served
        entries: dict[Path, Served] = {}
        for candidate in candidates:
            folder, detector = candidate.folder, candidate.detector
            if detector is None:
                entries[folder] = self.served[folder]
                continue
            own_name = not name
            name, version = self._names_of(folder, detector, name)
            if own_name:
                self.own_name = name
            served.serve(name, version, detector)
            entries[folder] = Served(name, version, candidate.stamps)
            self._plane.reloads["ok"] += 1
            _log_loaded(name, version, detector)
        versions = [entry.version for entry in entries.values()]
        served.order(name, versions)
        for version in set(served.versions(name)) - set(versions):
            self._withdraw(name, version)
        others = {folder: entry for folder, entry in self.served.items() if entry.name != name}
        self.served = others | entries
        served.states.forget_restored(name)

    def _withdraw(self, name: str, version: str) -> None:
        self._plane.served.withdraw(name, version)
        log(_logger, logging.INFO, "model_withdrawn", name=name, version=version)

    def _names_of(self, folder: Path, detector: Detector, name: str) -> tuple[str, str]:
        """Return under which name and version an artifact is served; an empty name is the artifact's own."""
        artifact_name, version = names_of(detector)
        if folder != self._root and is_version(folder.name):
            version = folder.name
        return name or artifact_name, version


def _log_loaded(name: str, version: str, detector: Detector) -> None:
    info = detector.info()
    plan = ",".join(f"{min_rows}:{backend}" for min_rows, backend in info["plan"].items())
    facts = {key: info[key] for key in _MODEL_FACTS}
    log(_logger, logging.INFO, "model_loaded", name=name, version=version, **facts, plan=plan)
    for backend, reason in info["refusals"].items():
        log(_logger, logging.INFO, "backend_refused", backend=backend, reason=reason)
