"""The model repository: a folder of artifacts, and which of them are served.

A new version is loaded, checked and warmed up, first in another process and then in a thread, while the old
one serves; the switch itself is one step on the event loop. A model with memory whose streams the new version
would forget goes on meanwhile: the new version warms up in its shadow first. What does not load is reported
and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from datasentinel.artifact import find_artifacts, printable
from datasentinel.errors import DataSentinelError, ModelNotFoundError, NotAllowedError
from datasentinel.serving import threads
from datasentinel.serving.control.preparation import Candidate, Preparation, stamps_of
from datasentinel.serving.control.succession import Succession
from datasentinel.serving.logs import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from datasentinel.artifact import Artifact
    from datasentinel.detector import Detector
    from datasentinel.serving.control.preparation import Stamps
    from datasentinel.serving.data_plane import DataPlane

_Result = TypeVar("_Result")

_logger = logging.getLogger(__name__)

# How often it is looked whether a shadow is due.
_SHADOW_INTERVAL_S = 0.1


class ModelRepository:
    """Keeps what is served in step with a folder.

    Parameters
    ----------
    root : Path
        An artifact, numbered versions of one model, or folders `<name>/` or `<name>/<version>/` of several.
    plane : DataPlane
        Where the models are served.
    load : callable
        Makes a detector of an artifact; called in a thread.
    try_to_load : callable, optional
        Called with the folder of an artifact before it is loaded, where a crash would harm other models.
    load_timeout_s : float
        How long loading may take; 0 for any time.
    is_successor : bool
        Whether this server replaces one that died, perhaps of a model.
    default_model : str
        Whose latest version answers requests that name no model; empty for the first by name.
    served_versions : int
        How many of a model's versions are served, the greatest numbers first.
    control : bool
        Whether clients may load and unload models.
    stream_shadow_s : float
        How long a model with memory may warm up in the shadow of the one it replaces; 0 not at all.
    """

    def __init__(
        self,
        root: Path,
        plane: DataPlane,
        load: Callable[[Artifact], Detector],
        *,
        try_to_load: Callable[[Path], Awaitable[None]] | None = None,
        load_timeout_s: float = 0.0,
        is_successor: bool = False,
        default_model: str = "",
        served_versions: int = 1,
        control: bool = False,
        stream_shadow_s: float = 0.0,
    ) -> None:
        self._root = root
        self._roots = {root.absolute()}  # Its paths as errors may have them.
        self._plane = plane
        self._preparation = Preparation(
            root, plane, load, try_to_load, load_timeout_s, alone=not is_successor
        )
        self._default_model = default_model
        self._served_versions = served_versions
        self._control = control
        self._succession = Succession(root, plane, self._preparation, stream_shadow_s=stream_shadow_s)
        self._lock = asyncio.Lock()
        self._unloaded: set[str] = set()
        self._opened: dict[Path, Stamps] = {}  # The folder just before it was first read.

    async def open(self) -> None:
        """Serve what the folder holds. Where one of several models does not load, the others are served.

        Raises
        ------
        ModelNotFoundError
            There is no artifact, or none of the name of the default model.
        ArtifactError, UnsupportedModelError, BackendUnavailableError, BackendError
            The only model, or the one that `default_model` names, cannot be loaded or run.
        """
        async with self._lock:
            self._opened = await _off_loop(self._look)
            found = await self._found()
            self._roots.add(await _off_loop(self._root.resolve))
            self._preparation.alone = self._preparation.alone and sum(map(len, found.values())) == 1
            if self._default_model and self._default_model not in found:
                known = ", ".join(found)
                raise ModelNotFoundError(
                    f"default_model: no model '{self._default_model}' in {self._root}; known: {known}"
                )
            default = self._default_model or next(iter(found))
            problems = {name: await self._update(name, folders) for name, folders in found.items()}
            self._preparation.alone = False
            needed = [self._default_model] if self._default_model else list(found)
            if not any(self._plane.served.versions(name or self._succession.own_name) for name in needed):
                raise problems[default] or ModelNotFoundError(f"{self._root}: no model '{default}'")
            # It may be served later; until then, requests that name no model fail with that reason.
            self._plane.served.set_default(default or self._succession.own_name)
        self._plane.reloads = dict.fromkeys(self._plane.reloads, 0)  # The start is not a reload.

    async def load(self, name: str) -> None:
        """Serve a model of the folder as it is now, whether it is served already or not.

        Raises
        ------
        NotAllowedError
            The server's settings do not let clients do this.
        ModelNotFoundError
            The folder has no such model.
        ArtifactError, UnsupportedModelError, BackendUnavailableError, BackendError
            Its newest version cannot be loaded or run; what was served before still is.
        """
        self._require_control()
        async with self._lock:
            with self._told_to_clients():
                await self._load_anew(name)

    async def unload(self, name: str) -> None:
        """Serve a model no longer, until it is loaded again; requests under way finish on it.

        Raises
        ------
        NotAllowedError
            The server's settings do not let clients do this.
        ModelNotFoundError
            It is not being served.
        """
        self._require_control()
        async with self._lock:
            self._succession.withdraw(name)
            self._unloaded.add(name)

    async def refresh(self, *, again: bool = False) -> None:
        """Bring what is served in step with the folder; what does not load is reported.

        Parameters
        ----------
        again : bool
            Whether artifacts that failed to load and have not changed since are tried again.
        """
        async with self._lock:
            if again:
                self._preparation.failures.clear()
            try:
                found = await self._found()
            except Exception as error:  # whatever it was, the next look may find the folder in order
                log(_logger, logging.ERROR, "repository_unreadable", directory=self._root, reason=error)
                return
            for name, folders in found.items():
                if name in self._unloaded:
                    continue
                try:
                    await self._update(name, folders)
                # An internal error with one model is no reason to pass over the others.
                except Exception as error:
                    log(_logger, logging.ERROR, "model_not_updated", name=name, exception=error)

    async def watch(self, interval_s: float) -> None:
        """Poll the folder every `interval_s`; a change counts once it is unchanged for one interval."""
        before = seen = self._opened
        while True:
            await asyncio.sleep(interval_s)
            try:
                now = await _off_loop(self._look)
                if now == seen and now != before:
                    before = now
                    await self.refresh()
                seen = now
            except Exception as error:  # An internal error is no reason to stop looking.
                log(_logger, logging.ERROR, "watch_failed", exception=error)

    async def end_shadows(self) -> None:
        """Serve versions that warm up in the shadow of others as they are due, until cancelled."""
        while True:
            await asyncio.sleep(_SHADOW_INTERVAL_S)
            if any(pending.shadow.is_due for pending in self._succession.pending.values()):
                async with self._lock:
                    self._succession.end_due_shadows()

    def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """List the models that are served, and those of the folder that are not, with the reason."""
        served = self._plane.served.all()
        models = [{"name": model.name, "version": model.version, "state": "READY"} for model in served]
        if ready_only:
            return models
        models += [
            {"name": name, "version": pending.version, "state": "LOADING", "reason": pending.shadow.progress}
            for name, pending in sorted(self._succession.pending.items())
        ]
        models += [
            {
                "name": failure.name,
                "version": printable(folder.name),
                "state": "UNAVAILABLE",
                "reason": self._without_root(failure.reason),
            }
            for folder, failure in sorted(self._preparation.failures.items())
            if folder not in self._succession.served
        ]
        models += [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
            for name in sorted(self._unloaded)
        ]
        return models

    # ---------------------------------------------------------------------------------------------- inside

    async def _load_anew(self, name: str) -> None:
        folders = (await self._found()).get(name)
        if folders is None:
            raise ModelNotFoundError(f"no model {name!r} in the repository")
        self._unloaded.discard(name)
        for folder in folders:
            self._preparation.failures.pop(folder, None)
            self._succession.served.pop(folder, None)
        if problem := await self._update(name, folders):
            raise problem

    def _without_root(self, text: str) -> str:
        """Remove the path of the repository, which clients need not know."""
        for root in self._roots:
            text = text.replace(f"{root}{os.sep}", "").replace(str(root), root.name)
        return text

    @contextmanager
    def _told_to_clients(self) -> Iterator[None]:
        """Leave out of an error where the repository lies."""
        try:
            yield
        except DataSentinelError as error:
            raise type(error)(self._without_root(str(error))) from error

    def _require_control(self) -> None:
        if not self._control:
            raise NotAllowedError(
                "loading and unloading models by clients is off; start the server with --repository-control"
            )

    def _find(self) -> dict[str, list[Path]]:
        found = find_artifacts(self._root)
        # A root that is one model itself has the name that its artifact had first.
        return {printable(name) or self._succession.own_name: folders for name, folders in found.items()}

    async def _found(self) -> dict[str, list[Path]]:
        """Return what the folder holds; an artifact that is gone is no failure any longer."""
        try:
            found = await _off_loop(self._find)
        except ModelNotFoundError:
            self._preparation.failures.clear()
            raise
        for folder in self._preparation.failures.keys() - set(chain.from_iterable(found.values())):
            del self._preparation.failures[folder]
        return found

    def _look(self) -> dict[Path, Stamps]:
        try:
            found = self._find()
        except (DataSentinelError, OSError):
            return {}
        return {folder: stamps_of(folder) for folders in found.values() for folder in folders}

    async def _update(self, name: str, folders: list[Path]) -> Exception | None:
        """Serve the newest versions that can be; returns why the newest cannot. The caller holds the lock."""
        kept: list[Candidate] = []
        first_problem: Exception | None = None
        for folder in reversed(folders):
            if len(kept) == self._served_versions:
                break
            stamps = await _off_loop(partial(stamps_of, folder))
            if (known := self._succession.candidate(name, folder, stamps)) is not None:
                kept.append(known)
                continue
            try:
                kept.append(Candidate(folder, stamps, await self._preparation.prepare(name, folder, stamps)))
            except DataSentinelError as error:
                if not kept:
                    first_problem = first_problem or error
                if (served := self._succession.served.get(folder)) is not None:
                    kept.append(Candidate(folder, served.stamps))
        if kept:
            await self._succession.serve(name, kept[::-1])
        return first_problem


async def _off_loop(look: Callable[[], _Result]) -> _Result:
    """Look at the folder in a thread: a file system may take long, or never answer."""
    return await threads.finish(look, "look-at-models")
