"""Runs the workers, takes their results, and goes on without a contender that kills one or hangs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.budget import Budget
from benchmarks.gpu.worker import SICK, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[2]
# Compiling takes a while; nothing that works is silent for longer.
QUIET_LIMIT_S = 90.0
# What a worker may take beyond its budget: one preparation that was under way.
GRACE_S = 15.0


@dataclass
class Outcome:
    """How a worker ended.

    Attributes
    ----------
    problem : str
        Empty where it ended well.
    suspect : str
        The contender that it tried last; empty where it had tried none.
    done : list of int
        Batches that are complete.
    """

    problem: str = ""
    suspect: str = ""
    done: list[int] = field(default_factory=list)


def environment() -> dict[str, str]:
    """This environment, in which JAX leaves others some of the device's memory."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def run_worker(
    task: Task,
    take: Callable[[dict[str, Any]], None],
    *,
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.gpu.worker"),
    quiet_limit_s: float = QUIET_LIMIT_S,
    grace_s: float = GRACE_S,
) -> Outcome:
    """Run one worker to its end, or for `grace_s` longer than its task's budget.

    Parameters
    ----------
    task : Task
    take : callable
        Given every message but "trying" and "done".
    command : sequence of str
        Starts the worker; the task is appended.
    quiet_limit_s, grace_s : float
        How long it may be silent, and how far it may exceed its budget.
    """
    outcome = Outcome()
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as output, os.fdopen(reader, "rb", buffering=0) as pipe:
        argument = json.dumps(asdict(replace(task, descriptor=writer)))
        process = subprocess.Popen(
            [*command, argument],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            start_new_session=True,
        )
        os.close(writer)
        try:
            for message in _messages(process, pipe, Budget(task.budget_s + grace_s), quiet_limit_s):
                if isinstance(message, str):
                    outcome.problem = message
                elif "trying" in message:
                    outcome.suspect = message["trying"]
                elif "done" in message:
                    outcome.done.append(message["done"])
                else:
                    outcome.problem = message.get("sick", "")
                    take(message)
        finally:
            with suppress(ProcessLookupError):  # With the compilers that it may have started.
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        if code not in (0, SICK) and not outcome.problem:
            output.seek(0)
            tail = output.read()[-1500:].decode(errors="replace").strip()
            how = f"died of signal {-code}" if code < 0 else f"ended with exit code {code}"
            outcome.problem = f"the process {how}; it said: {tail or 'nothing'}"
    return outcome


def _messages(
    process: subprocess.Popen[bytes], pipe: Any, budget: Budget, quiet_limit_s: float
) -> Iterator[dict[str, Any] | str]:
    """Yield messages until the worker ends; text says why it has to be ended."""
    rest = b""
    quiet = Budget(quiet_limit_s)
    while True:
        ended = process.poll() is not None
        if select.select([pipe], [], [], 0.0 if ended else min(budget.left_s, quiet.left_s, 0.2))[0]:
            chunk = pipe.read(1 << 16)
            if not chunk:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10.0)
                return
            quiet = Budget(quiet_limit_s)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
        elif ended:
            return
        elif budget.left_s <= 0:
            yield "the time budget is spent"
            return
        elif quiet.left_s <= 0:
            yield f"no sign of life for {quiet_limit_s:g} s"
            return


def measure_model(
    task: Task, budget: Budget, take: Callable[[dict[str, Any]], None], **options: Any
) -> list[str]:
    """Measure a model's batches, with a new worker after each that dies; give the problems that there were.

    A batch size in which a worker died is measured again, without the contender that it tried last.
    """
    problems: list[str] = []
    left_out = dict(task.left_out)
    batches = list(task.batches)
    while batches and budget.left_s > 0:
        started = replace(task, batches=batches, left_out=left_out, budget_s=budget.left_s)
        outcome = run_worker(started, take, **options)
        batches = [rows for rows in batches if rows not in outcome.done]
        if not outcome.problem:
            break
        problems.append(f"{outcome.suspect or 'starting'}: {outcome.problem}")
        if not outcome.suspect or outcome.suspect in left_out:
            break
        left_out[outcome.suspect] = outcome.problem
    return problems
