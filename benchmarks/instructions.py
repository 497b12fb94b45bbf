"""Count the instructions of hot paths with Callgrind, and fail where one has become longer.

Times depend on the machine and on what else it does; counts of instructions hardly do. Callgrind knows no
AVX-512: `fused` is counted with AVX2 and with its portable kernels. The counts to compare with, per row, are
in `instructions.json`; they hold for one compiler, in a release build. After a change that is meant to make a
path longer, or has made it shorter, `--record` them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import native
from benchmarks.models import SMALL, write_autoencoder, write_default
from datasentinel.artifact import MODEL_FILE
from datasentinel.export import build_artifact
from datasentinel.extension import native as extension
from datasentinel.training import TrainingSettings, train
from tests.parity.tree_models import Trees, ensemble, model_of
from tests.recordings import oscillations

RECORDED = Path(__file__).with_suffix(".json")
MOST_LONGER = 1.05


def write_models(folder: Path) -> None:
    """Write what `hot_paths` scores with."""
    (folder / "small.onnx").write_bytes(
        (write_autoencoder(folder / "small", SMALL) / MODEL_FILE).read_bytes()
    )
    (folder / "default.onnx").write_bytes((write_default(folder / "default", 10) / MODEL_FILE).read_bytes())
    recording = oscillations(3000)
    with_memory = train(recording, settings=TrainingSettings(model="context"))
    (folder / "memory.onnx").write_bytes(build_artifact(with_memory, rows=recording).onnx)
    trees = Trees(0, modes=("BRANCH_LEQ",))
    for _ in range(100):
        trees.grow(127)
    (folder / "forest.onnx").write_bytes(model_of(ensemble(trees)))


def count(models: Path | None, instruction_set: str) -> tuple[str, dict[str, float]]:
    """Return the compiler, and the instructions per row of each hot path."""
    with TemporaryDirectory() as folder:
        command = [
            *("valgrind", "--tool=callgrind", "--collect-atstart=no", f"--callgrind-out-file={folder}/dump"),
            *("--toggle-collect=counted", "--zero-before=counted", "--dump-after=counted"),
            *(str(native.executable("hot_paths")), *([] if models is None else [str(models)])),
        ]
        environment = os.environ | {"DATASENTINEL_ISA": instruction_set}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        compiler, *lines = done.stdout.splitlines()
        counts = {}
        for number, line in enumerate(lines, 1):
            rows, name = line.split("\t")
            total = re.search(r"^totals: (\d+)$", Path(folder, f"dump.{number}").read_text(), re.MULTILINE)
            counts[name if models is None else f"{name}, {instruction_set}"] = int(total[1]) / int(rows)
    return compiler, counts


def count_all() -> tuple[str, dict[str, float]]:
    """Return the compiler, and the instructions per row of all hot paths that this processor runs."""
    sets = ["portable"]
    if {"avx2", "fma"} <= set(extension.cpu_features()):
        sets.append("avx2")
    native.executable("hot_paths")
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as threads:
        write_models(Path(folder))
        runs = [*(partial(count, Path(folder), name) for name in sets), partial(count, None, "portable")]
        results = list(threads.map(lambda run: run(), runs))
    return results[0][0], {name: value for _, counts in results for name, value in counts.items()}


def compare(counts: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """Print the counts beside those recorded; return the names of those that are longer, or not recorded."""
    longer = []
    for name, value in counts.items():
        ratio = value / recorded[name] if name in recorded else math.inf
        if ratio > MOST_LONGER:
            longer.append(name)
        print(f"{value:12,.0f} {ratio:8.3f} x {'LONGER ' if ratio > MOST_LONGER else '       '}{name}")
    return longer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the counts to compare with from now on")
    arguments = parser.parse_args()
    if platform.machine() not in ("x86_64", "AMD64"):
        print("instructions are not counted: they are recorded for x86-64")
        return 0
    if shutil.which("valgrind") is None:
        print("instructions are not counted: valgrind is not installed")
        return 0
    compiler, counts = count_all()
    if arguments.record:
        rounded = {name: round(value, 1) for name, value in counts.items()}
        RECORDED.write_text(
            json.dumps({"compiler": compiler, "instructions per row": rounded}, indent=2) + "\n"
        )
    recorded = json.loads(RECORDED.read_text())
    longer = compare(counts, recorded["instructions per row"])
    if recorded["compiler"] != compiler:
        print(f"nothing follows from that: recorded with {recorded['compiler']}, built with {compiler}")
        return 0
    if longer:
        print(f"more than {MOST_LONGER - 1:.0%} longer than recorded in {RECORDED.name}: {'; '.join(longer)}")
    return 1 if longer else 0


if __name__ == "__main__":
    sys.exit(main())
