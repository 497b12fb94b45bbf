"""Everything beside everything, in turns: `python -m benchmarks.compare`.

Measures the small, medium and large model of DESIGN.md section 5 with our backends and all peers, called from
Python, and with our backends and ONNX Runtime's C API, called from C++. What counts are the ratios within a
round, whose medians it prints; benchmarks/README.md says what each number includes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import native
from benchmarks.models import SIZES, subject
from benchmarks.peers import all_contenders
from datasentinel.bench.charts import draw_charts
from datasentinel.bench.report import save_report
from datasentinel.bench.run import DEFAULT_BATCHES, measurements_of, run_python_level, start_report
from datasentinel.bench.tables import make_console, print_report


def parse_arguments() -> argparse.Namespace:
    names = [contender.name for contender in all_contenders()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(SIZES), help="default: %(default)s")
    parser.add_argument("--batches", default=",".join(map(str, DEFAULT_BATCHES)), help="default: %(default)s")
    parser.add_argument("--contenders", default=",".join(names), help="from Python; default: %(default)s")
    parser.add_argument("--levels", default="python,c++", help="default: %(default)s")
    parser.add_argument("--budget-s", type=float, default=180.0, help="about how long; default: %(default)s")
    parser.add_argument("--out", type=Path, default=native.ROOT / "benchmarks/results/compare.json")
    parser.add_argument("--charts", type=Path, help="folder for PNG charts")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    arguments = parser.parse_args()
    for option, known in (("models", SIZES), ("contenders", names), ("levels", ("python", "c++"))):
        values = getattr(arguments, option).split(",")
        setattr(arguments, option, values)
        if not set(values) <= set(known):
            parser.error(f"--{option}: choose from {', '.join(known)}")
    try:
        arguments.batches = sorted({int(batch) for batch in arguments.batches.split(",")})
    except ValueError:
        arguments.batches = [0]
    if arguments.batches[0] < 1:
        parser.error("--batches: numbers from 1, separated by commas")
    if not 0 < arguments.budget_s < 86_400:
        parser.error("--budget-s: a number of seconds between 0 and 86400")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    console = make_console(quiet=arguments.quiet)
    budget_s = arguments.budget_s / len(arguments.levels)
    keys = ("models", "batches", "contenders", "levels", "budget_s")
    with tempfile.TemporaryDirectory() as folder:
        subjects = [subject(name, Path(folder)) for name in arguments.models]
        report = start_report(subjects, {key: getattr(arguments, key) for key in keys})
        if "c++" in arguments.levels:
            report.contenders[f"c++ {native.BASELINE}"] = (
                "Run with tensors made once, 1 thread, all optimisations"
            )
            report.contenders["c++ fused, onnxruntime"] = "Session::run, 1 thread"
            for one in subjects:
                console.print(f"{one.name}, called from C++ ...")
                measured = native.measure_native(one, arguments.batches, budget_s / len(subjects))
                for batch, result in measured.items():
                    report.measurements += measurements_of(
                        one, "c++", batch, result.timings, baseline=native.BASELINE
                    )
                    report.left_out += [
                        {
                            "model": one.name,
                            "level": "c++",
                            "contender": name,
                            "batch": batch,
                            "reason": reason,
                        }
                        for name, reason in result.left_out.items()
                    ]
        if "python" in arguments.levels:
            run_python_level(
                report,
                subjects,
                [contender for contender in all_contenders() if contender.name in arguments.contenders],
                batches=arguments.batches,
                budget_s=budget_s,
                progress=lambda text: console.print(f"{text}, called from Python ..."),
            )
    print_report(console, report)
    save_report(report, arguments.out)
    console.print(f"wrote {arguments.out}")
    if arguments.charts:
        for path in draw_charts(report, arguments.charts):
            console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
