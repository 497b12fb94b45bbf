"""The process that touches the device; `supervise` starts it, not a person.

A kernel that goes astray takes every other user of the device in the same process with it, so the one that
keeps the results never touches the device. Its one argument is the JSON text of a `Task`; it writes one JSON
object a line to the file descriptor that the task names:

    {"trying": TEXT}     about to use a contender
    {"result": {...}}    one contender's result
    {"roof": NAME, "value": ...}
    {"done": ROWS}       every result of this batch size is there
    {"sick": TEXT}       the device answers no more; the process ends
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.arrays import find_arrays
from benchmarks.gpu.budget import Budget, Estimates
from benchmarks.gpu.cases import NotRun
from benchmarks.gpu.contenders import all_contenders
from benchmarks.gpu.measure import Bench, SickDeviceError
from benchmarks.gpu.roofs import ROOFS, measure_roofs
from datasentinel.artifact import load_artifact
from datasentinel.bench.subject import subject_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.gpu.cases import Contender

SICK = 4


@dataclass(frozen=True)
class Task:
    """What a worker is to do.

    Attributes
    ----------
    kind : str
        "roofs" or "model".
    descriptor : int
        Where to write.
    device : str
        "cuda" or "cpu".
    budget_s : float
    size : str
        The model's name; its artifact is in `folder`.
    folder : str
    batches : list of int
    left_out : dict
        What not to try, as it was announced, with the reason.
    cases : list, optional
        The rows, place and contender's label of what to measure; everything if there is none.
    """

    kind: str
    descriptor: int
    device: str
    budget_s: float
    size: str = ""
    folder: str = ""
    batches: list[int] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    cases: list[tuple[int, str, str]] | None = None


def measure_model(
    task: Task, contenders: Sequence[Contender], write: Callable[[dict[str, Any]], None]
) -> None:
    """Measure the task's batches one after the other."""
    total = Budget(task.budget_s)
    bench = Bench(
        subject_of(load_artifact(Path(task.folder))),
        task.device,
        find_arrays(task.device),
        list(contenders),
        emit=lambda result: write({"result": result}),
        announce=lambda label: write({"trying": label}),
        estimates=Estimates(),
        left_out=task.left_out,
        # JSON knows no tuples.
        only=None if task.cases is None else {(rows, place, label) for rows, place, label in task.cases},
    )
    for index, rows in enumerate(task.batches):
        bench.measure(rows, total.share(len(task.batches) - index), total)
        write({"done": rows})


def main(argument: str, contenders: Sequence[Contender] | None = None) -> int:
    """Do a task; give the exit code."""
    task = Task(**json.loads(argument))
    os.set_inheritable(task.descriptor, False)
    with os.fdopen(task.descriptor, "w", buffering=1) as out:

        def write(message: dict[str, Any]) -> None:
            out.write(json.dumps(message) + "\n")

        if task.kind == "roofs":
            seconds = task.budget_s / len(ROOFS) / 2  # The rest is for starting up.
            try:
                measure_roofs(task.device, seconds, lambda name, value: write({"roof": name, "value": value}))
            except NotRun as reason:
                for name, _, _ in ROOFS:
                    write({"roof": name, "value": {"not run": str(reason)}})
            return 0
        try:
            measure_model(task, contenders or all_contenders(), write)
        except SickDeviceError as error:
            write({"sick": str(error)})
            return SICK
    return 0


if __name__ == "__main__":
    # Without unwinding: on a sick device, destructors of others' libraries may never return.
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
