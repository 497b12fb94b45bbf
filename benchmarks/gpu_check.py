"""Everything that needs a GPU, in one go: build, tests, roofs, scores, times; one JSON file, one table.

    python benchmarks/gpu_check.py --out gpu.json --markdown gpu.md [--build] [--budget-s 480] [--only WORDS]

The aims are measured first, each in its own case, and printed at the end; `--only` measures them and nothing
else, `--only bus large` only those. `--only --budget-s 160` has time for all of them.
What cannot run reads "not run" with its reason; nothing is guessed. Results are written as they come, and a
contender that fails, crashes or hangs is left out while the rest goes on. Without a GPU it says so and exits
with 3; with failing tests or wrong scores it exits with 1, after writing what it has. `--device cpu`
rehearses the whole on the CPU, where the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu import machine
from benchmarks.gpu.budget import Budget

# Beside the autoencoders, `default` is what `datasentinel train` makes of 100 columns.
_MODELS = ("small", "medium", "large", "default")

NO_GPU = 3


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--markdown", type=Path, help="Markdown file to write")
    parser.add_argument("--build", action="store_true", help="build the extension in this tree first")
    parser.add_argument("--no-tests", action="store_true", help="do not run the tests marked gpu")
    parser.add_argument("--only", nargs="*", metavar="WORDS",
                        help="measure the aims alone, or those with one of these in their line")  # fmt: skip
    parser.add_argument("--budget-s", type=float, default=480.0, help="for all but the build; default: 480")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=_MODELS, default=list(_MODELS))
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 to 16,777,216 rows")
    options = parser.parse_args(arguments)
    if not 1.0 <= options.budget_s < 86_400.0:
        parser.error("--budget-s: a number of seconds from 1 to 86400")
    if options.only:
        from benchmarks.gpu.aims import GOALS, goals_of  # The extension may have to be built first.

        if not goals_of(options.sizes, options.only):
            lines = "\n".join(f"  {goal.about}: {goal.case}" for goal in GOALS)
            parser.error(f"--only: none of these aims has that in its line:\n{lines}")
    if options.batches and min(options.batches) < 1:
        parser.error("--batches: numbers from 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    gpu = ""
    if options.device == "cuda":
        gpu, reason = machine.find_gpu()
        if not gpu:
            print(f"gpu_check: no GPU on this machine: {reason}; nothing was run", file=sys.stderr)
            return NO_GPU
    content = {
        "gpu": gpu,
        "device": options.device,
        "machine": platform.platform(),
        "versions": machine.versions(),
        "budget_s": options.budget_s,
    }
    if options.build:
        content["build"] = machine.build(timeout_s=600.0)
        if content["build"][-1]["exit_code"] != 0:
            print(f"gpu_check: the build failed:\n{content['build'][-1]['tail']}", file=sys.stderr)
            return 1

    # The extension may not have been there before.
    from benchmarks.gpu.cases import BATCHES
    from benchmarks.gpu.check import Report, measure
    from benchmarks.gpu.tables import aims_table

    budget = Budget(options.budget_s)
    report = Report(options.out, options.markdown, content)
    report.save()

    def run_tests() -> None:
        if not options.no_tests:
            content["gpu tests"] = machine.run_tests(budget.share(2).left_s)
            report.save()

    measure(
        report,
        budget,
        device=options.device,
        sizes=options.sizes,
        batches=tuple(sorted(set(options.batches or BATCHES))),
        only=options.only,
        between=run_tests,
    )
    content["wrong"] = report.wrong
    report.save()
    passed = not report.wrong and content.get("gpu tests", {"exit_code": 0})["exit_code"] == 0
    print(aims_table(report.verdicts))
    print(f"gpu_check: {'passed' if passed else 'FAILED'}; {options.out}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
