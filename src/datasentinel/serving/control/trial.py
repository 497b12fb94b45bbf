"""A model is loaded in a process of its own first: one that crashes or never ends harms nothing else.

The process does all that the server would do with the model, then ends. What it measured and built, the plan
and the engines of a GPU, is remembered in the cache folder, so the server's own loading is short.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel import errors
from datasentinel.errors import ArtifactError, DataSentinelError
from datasentinel.serving.control.loading import load_and_warm_up, loader
from datasentinel.serving.exit_codes import in_words
from datasentinel.serving.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXIT_REFUSED = 3  # The model does not load, and the reason is on standard output.


async def try_to_load(folder: Path, root: Path, settings: Settings) -> None:
    """Load the artifact of `folder`, which has to lie in `root`, in another process.

    Parameters
    ----------
    folder, root : Path
    settings : Settings
        How it is to be loaded, and for how long.

    Raises
    ------
    ArtifactError
        The process crashed, or had not loaded the model in `settings.load_timeout_s`.
    DataSentinelError
        What loading raised there.
    """
    warning_flags = [f"-W{option}" for option in sys.warnoptions]
    told = json.dumps({"folder": str(folder), "root": str(root), "settings": asdict(settings)})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *warning_flags, "-m", "datasentinel.serving.control.trial", told),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the server, which ends this one.
    )
    timeout_s = settings.load_timeout_s or None
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        raise ArtifactError(
            f"{folder}: had not loaded after {timeout_s:g} s, and was given up; see --load-timeout-s"
        ) from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if process.returncode == _EXIT_REFUSED:
        kind, message = json.loads(output)
        raise getattr(errors, kind)(message)
    if process.returncode:
        raise ArtifactError(f"{folder}: loading it ends the process: {in_words(process.returncode)}")


def main(arguments: Sequence[str]) -> int:
    """Load a model as `try_to_load` says; return the exit code."""
    told = json.loads(arguments[0])
    settings = Settings(**told["settings"])
    # Should the server be killed meanwhile, nothing else ends this process.
    signal.alarm(math.ceil(settings.load_timeout_s) + 1 if settings.load_timeout_s else 0)
    # Where memory runs out, the system is to take it from here and not from the server.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        load_and_warm_up(Path(told["folder"]), Path(told["root"]), loader(settings))
    except DataSentinelError as error:
        sys.stdout.write(json.dumps([type(error).__name__, str(error)]))
        return _EXIT_REFUSED
    except MemoryError:
        sys.stdout.write(json.dumps(["OutOfMemoryError", f"{told['folder']}: memory ran out"]))
        return _EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
