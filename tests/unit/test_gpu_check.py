"""benchmarks/gpu_check.py on a machine without a GPU, and the parts of it that need none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_check
from benchmarks.gpu import aims, supervise, tables, worker
from benchmarks.gpu.arrays import NumpyArrays
from benchmarks.gpu.budget import Budget, Estimates
from benchmarks.gpu.cases import TOLERANCES, Call, Contender
from benchmarks.gpu.check import Report, measure
from benchmarks.gpu.contenders import our_contenders
from benchmarks.gpu.jax_contenders import jax_contenders
from benchmarks.gpu.measure import Bench, in_turns
from benchmarks.gpu.torch_contenders import GRAPHS, torch_contenders
from benchmarks.gpu.worker import Task
from benchmarks.models import subject, write_default

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.py"


def test_without_a_gpu_it_says_so_and_fails(tmp_path):
    # No nvidia-smi on this PATH, whatever the machine has.
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "gpu.json")],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": str(tmp_path)},
        check=False,
        timeout=120,
    )
    assert done.returncode == gpu_check.NO_GPU
    assert "no GPU on this machine: nvidia-smi is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "gpu.json").exists()


# ------------------------------------------------------------------------------------------- measuring


def measured(tmp_path, contenders: list[Contender], rows: int = 8) -> dict[tuple[str, str], dict]:
    results = []
    bench = Bench(
        subject("small", tmp_path),
        "cpu",
        NumpyArrays(),
        contenders,
        emit=results.append,
        announce=lambda label: None,
        estimates=Estimates(),
    )
    bench.measure(rows, Budget(0.05), Budget(3600.0))
    return {(result["label"], result["place"]): result for result in results}


def test_what_cannot_run_reads_not_run_and_the_rest_is_measured(tmp_path):
    results = measured(tmp_path, our_contenders())
    for name in ("fused", "onnxruntime"):
        result = results[name, "host"]
        assert result["relative_error"] < TOLERANCES["float32"]
        assert 0 < result["min_us"] <= result["p50_us"] <= result["p99_us"]
    for result in results.values():
        assert "p50_us" in result or len(result["not run"]) > 10
    assert {"fused-cuda, bf16", "onnxruntime-cuda, cuda-graphs"} <= {label for label, _ in results}


def test_torch_and_jax_compute_the_same_network(tmp_path):
    pytest.importorskip("torch")
    eager = [contender for contender in torch_contenders() if contender.name == "torch eager"]
    results = measured(tmp_path, eager + jax_contenders())
    assert results["torch eager", "host"]["relative_error"] < TOLERANCES["float32"]
    assert results["torch eager", "device"]["relative_error"] < TOLERANCES["float32"]
    jax = results["jax.jit", "device"]
    assert "jax is not installed" in jax.get("not run", "") or jax["relative_error"] < TOLERANCES["float32"]


class Answers:
    """A contender with a fixed idea of the scores."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def prepare(self, setting) -> Call:
        held = [None, None]

        def load(rows: np.ndarray) -> None:
            held[0] = rows

        def run() -> None:
            held[1] = self.answer(setting, held[0])

        return Call(load, run, lambda: held[1])

    def contender(self, name: str) -> Contender:
        return Contender(name, ("host",), self.prepare)


def test_wrong_scores_are_not_timed(tmp_path):
    first = []

    def stale(setting, rows):
        first.append(setting.subject.reference(rows))
        return first[0]

    def raising(setting, rows):
        raise ValueError("broken on purpose")

    contenders = [
        Answers(lambda setting, rows: setting.subject.reference(rows)).contender("right"),
        Answers(lambda setting, rows: 1.01 * setting.subject.reference(rows)).contender("wrong"),
        Answers(lambda setting, rows: setting.subject.reference(rows)[:-1]).contender("short"),
        Answers(stale).contender("stale"),
        Answers(raising).contender("raising"),
    ]
    results = {label: result for (label, _), result in measured(tmp_path, contenders).items()}
    assert "p50_us" in results["right"]
    for name in ("wrong", "short", "stale"):
        assert results[name]["wrong"], name
        assert "p50_us" not in results[name]
    assert "after the rows were replaced" in results["stale"]["not run"]
    assert results["raising"]["not run"] == "ValueError: broken on purpose"


class Clock:
    """Moves only when somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, seconds: float):
        def call() -> None:
            self.now_s += seconds

        return call


def test_contenders_take_turns_for_the_time_that_is_given():
    clock = Clock()
    calls = {"fast": clock.work(1e-3), "slow": clock.work(0.1), "failing": lambda: 1 / 0}
    turns, failures = in_turns(calls, 14.0, clock)
    assert set(turns) == {"fast", "slow"}
    assert isinstance(failures["failing"], ZeroDivisionError)
    assert np.median(turns["fast"].samples_us) == pytest.approx(1e3)
    assert np.median(turns["slow"].samples_us) == pytest.approx(1e5)
    assert 3 <= len(turns["fast"].rounds_us) == len(turns["slow"].rounds_us) <= 7
    assert clock.now_s < 20


def test_what_one_saves_the_next_ones_get():
    clock = Clock()
    budget = Budget(30.0, clock)
    assert budget.share(3).left_s == pytest.approx(10)
    clock.now_s = 4.0
    assert budget.share(2).left_s == pytest.approx(13)
    clock.now_s = 31.0
    assert budget.left_s == 0
    estimates = Estimates(clock)
    assert estimates.of("a", 5.0) == 5.0
    estimates.timed("a", clock.work(2.0))
    assert estimates.of("a", 5.0) == pytest.approx(2.0)


# ------------------------------------------------------------------------------------ workers that fail


def worker_of(script: str) -> tuple[str, ...]:
    head = "import json, os, sys, time\ntask = json.loads(sys.argv[1])\nout = os.fdopen(task['descriptor'], 'w', 1)\n"
    head += "def say(**what): out.write(json.dumps(what) + chr(10))\n"
    return (sys.executable, "-c", head + script)


def test_a_contender_that_kills_its_process_is_left_out_and_the_rest_goes_on():
    script = """
for rows in task["batches"]:
    for name in ("good", "deadly"):
        if name in task["left_out"]:
            say(result={"name": name, "rows": rows, "not run": task["left_out"][name]})
            continue
        say(trying=name)
        if name == "deadly":
            os.abort()
        say(result={"name": name, "rows": rows})
    say(done=rows)
"""
    results = []
    problems = supervise.measure_model(
        Task("model", -1, "cpu", 0.0, batches=[1, 8]),
        Budget(600.0),
        results.append,
        command=worker_of(script),
    )
    assert len(problems) == 1
    assert problems[0].startswith("deadly: the process died of signal 6")
    reached = [(m["result"]["name"], m["result"]["rows"]) for m in results if "not run" not in m["result"]]
    assert reached == [("good", 1), ("good", 1), ("good", 8)]
    assert "died of signal 6" in results[-1]["result"]["not run"]


def test_a_worker_that_hangs_is_ended():
    script = "say(trying='sleeper')\ntime.sleep(600)"
    outcome = supervise.run_worker(
        Task("model", -1, "cpu", 600.0), print, command=worker_of(script), quiet_limit_s=2.0
    )
    assert outcome.problem == "no sign of life for 2 s"


# ------------------------------------------------------------------------------------- aims and tables

ROOFS = {"host_to_device_gb_s": 50.0, "device_memory_gb_s": 4000.0, "float32_tflop_s": 50.0}


def result(rows: int, place: str, p50_us: float, contender: str = aims.OURS, size: str = "small") -> dict:
    return {
        "size": size,
        "rows": rows,
        "place": place,
        "contender": contender,
        "precision": "float32",
        "label": contender,
        "columns": 8,
        "flops_per_row": 264,
        "p50_us": p50_us,
        "rounds_us": [p50_us] * 7,
    }


def verdicts(results: list[dict]) -> dict[tuple[str, str], dict]:
    return {(aim["aim"], aim["case"]): aim for aim in aims.judge(results, ROOFS, aims.GOALS)}


def test_shares_of_the_roofs():
    # 1,048,576 rows of 8 floats are 33.6 MB, which 50 GB/s carry in 671 us.
    shares = aims.shares(result(1_048_576, "host", 1342.177), ROOFS)
    assert shares == {"bus": pytest.approx(0.5)}
    # Rows and scores: 36 bytes a row. Two operations for each of the 132 multiply-adds.
    shares = aims.shares(result(1_048_576, "device", 18.874), ROOFS)
    assert shares["memory"] == pytest.approx(0.5, rel=1e-4)
    assert shares["arithmetic"] == pytest.approx(1_048_576 * 264 / 18.874e-6 / 50e12, rel=1e-4)
    assert aims.shares({"rows": 1, "not run": "no reason"}, ROOFS) == {}


def test_aims_are_met_missed_or_not_measured():
    one_row = ("one row, host to host", "small, host memory, 1 row")
    assert verdicts([result(1, "host", 11.9)])[one_row]["verdict"] == aims.MET
    assert verdicts([result(1, "host", 12.6)])[one_row]["verdict"] == "missed by 5.0%"
    assert verdicts([])[one_row]["verdict"] == aims.NOT_MEASURED
    # 262,144 rows of 8 floats are 8.4 MB, which 50 GB/s carry in 168 us.
    bus = ("rows on the host go as fast as the bus", "small, pinned memory, 262,144 rows")
    assert verdicts([result(262_144, "pinned", 195.0)])[bus]["verdict"] == aims.MET
    # In 200 us that is 83.9 % of the bus: 1.3 % less than 85 %.
    assert verdicts([result(262_144, "pinned", 200.0)])[bus]["verdict"] == "missed by 1.3%"
    # Each is judged by its own case: more rows say nothing of these.
    assert verdicts([result(1_048_576, "pinned", 1.0)])[bus]["verdict"] == aims.NOT_MEASURED


def test_being_faster_is_about_every_batch_size():
    faster = (f"faster than {GRAPHS}", "large, device memory, every batch size")
    pair = [result(8, "device", 5.0, size="large"), result(8, "device", 6.0, GRAPHS, size="large")]
    found = verdicts(pair)[faster]
    assert found["value"] == "1.20 x"
    assert found["verdict"] == aims.NOT_MEASURED
    pair[0]["rounds_us"] = [7.0] * 7
    assert verdicts(pair)[faster]["verdict"] == "missed by 14.3%"
    assert verdicts(pair)[faster]["note"].endswith("nothing at 1, 64, 512, 4,096, 32,768, 262,144 rows")


def test_the_aims_are_chosen_by_words():
    assert {goal.size for goal in aims.goals_of(["small", "large"])} == {"small", "large"}
    (default,) = aims.goals_of(["default"])
    assert default.cases() == [("default", 65_536, "device", "fused-cuda")]
    bus = aims.goals_of(["small", "medium", "large"], ["the bus"])
    assert [(goal.place, goal.rows) for goal in bus] == [("pinned", 262_144), ("host", 16_777_216)]
    assert bus[0].cases() == [("small", 262_144, "pinned", "fused-cuda")]
    with pytest.raises(SystemExit):
        gpu_check.parse_arguments(["--out", "x.json", "--only", "no such aim"])
    assert gpu_check.parse_arguments(["--out", "x.json", "--only"]).only == []
    assert gpu_check.parse_arguments(["--out", "x.json"]).only is None


def test_every_aim_has_time_in_160_seconds():
    cases = aims.cases_of(aims.GOALS)
    assert list(cases) == ["small", "medium", "default", "large"]
    # The roofs come first.
    assert sum(aims.needed_s(size, some) for size, some in cases.items()) < 0.9 * 160.0


def test_only_the_aim_s_cases_are_measured(tmp_path):
    report = Report(tmp_path / "gpu.json", None, {})
    measure(report, Budget(60.0), device="cpu", sizes=["small"], only=["one row, host"])
    assert [(key, result["not run"] != "") for key, result in report.results.items()] == [
        (("small", 1, "host", "fused-cuda"), True)
    ]
    (aim,) = json.loads((tmp_path / "gpu.json").read_text())["aims"]
    assert aim["verdict"] == aims.NOT_MEASURED
    assert aim["note"].startswith("no device: ")


def test_the_default_model_is_measured_too(tmp_path):
    pytest.importorskip("torch", reason="what is trained needs torch")
    folder = write_default(tmp_path / "default", 12, name="default")
    messages = []
    cases = [(8, "host", "fused"), (8, "host", "torch eager")]
    task = Task("model", -1, "cpu", 600.0, "default", str(folder), [8], cases=cases)
    worker.measure_model(task, [*our_contenders(), *torch_contenders()], messages.append)
    results = {m["result"]["label"]: m["result"] for m in messages if "result" in m}
    ours, torch_eager = results["fused"], results["torch eager"]
    assert ours["relative_error"] < TOLERANCES["float32"]
    assert ours["columns"] == 12
    assert ours["flops_per_row"] > 2 * 12 * 1000  # A thousand prototypes, and more.
    assert torch_eager["not run"] == "it computes the autoencoders only"


def test_what_was_measured_for_an_aim_stays(tmp_path):
    report = Report(tmp_path / "gpu.json", None, {})
    for p50_us in (1.0, 2.0):
        report.take({"result": result(1, "host", p50_us)})
    ((_, kept),) = report.results.items()
    assert kept["p50_us"] == 1.0


def test_the_report_reads_as_markdown():
    missing = {"size": "small", "rows": 1, "place": "host", "contender": "x", "precision": "float32"}
    report = {
        "gpu": "A GPU",
        "device": "cuda",
        "roofs": ROOFS | {"bf16_tflop_s": {"not run": "no | torch"}},
        "aims": aims.judge([result(1, "host", 11.9)], ROOFS, aims.GOALS),
        "results": [result(1, "host", 11.9), missing | {"label": "x", "not run": "there is none"}],
    }
    text = tables.markdown(report)
    assert "| one row, host to host | small, host memory, 1 row | p50 at most 12 µs | 11.9 µs | met |" in text
    assert "not run: no \\| torch" in text
    assert "| x | there is none | small host 1 |" in text
    assert "rehearsal" not in text
    assert "rehearsal" in tables.markdown(report | {"device": "cpu"})
