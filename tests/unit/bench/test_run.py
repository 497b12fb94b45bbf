"""Runs: outputs are checked before they are timed, and who cannot run is left out with the reason."""

from __future__ import annotations

import functools
import itertools
import time

import numpy as np
import pytest

from datasentinel.artifact import load_artifact
from datasentinel.bench.contenders import Contender, our_contenders, peer_contenders
from datasentinel.bench.measure import MAX_ROUNDS, MIN_ROUNDS, measure_in_turns
from datasentinel.bench.roof import measure_gflops, measure_roof
from datasentinel.bench.run import run_python_level, start_report
from datasentinel.bench.subject import subject_of
from datasentinel.errors import InvalidInputError
from tests.networks import Network, write_prototype


def right(subject, rows):
    return lambda: subject.reference(rows).astype(np.float32)


def slightly_wrong(subject, rows):
    return lambda: subject.reference(rows).astype(np.float32) * np.float32(1.001)


def not_finite(_subject, rows):
    return lambda: np.full(len(rows), np.nan, np.float32)


def remembering(subject, rows):
    answer = subject.reference(rows).astype(np.float32)
    return lambda: answer


def too_few(subject, rows):
    return lambda: subject.reference(rows)[:-1].astype(np.float32)


def failing(_subject, _rows):
    raise RuntimeError("no such kernel")


def test_wrong_outputs_are_left_out(subject):
    tricks = (right, slightly_wrong, not_finite, remembering, too_few, failing)
    contenders = [Contender(trick.__name__, "", trick) for trick in tricks]
    contenders.append(Contender("absent", "", right, "it is not installed"))
    report = start_report([subject], {})
    run_python_level(report, [subject], contenders, batches=[1, 9], budget_s=0.02)
    assert [(one.contender, one.batch) for one in report.measurements] == [("right", 1), ("right", 9)]
    reasons = {(entry["contender"], entry["batch"]): entry["reason"] for entry in report.left_out}
    assert reasons["absent", 0] == "it is not installed"
    assert "wrong scores: 9 of 9 rows" in reasons["slightly_wrong", 9]
    assert "wrong scores" in reasons["not_finite", 1]
    assert "wrong scores" in reasons["remembering", 9]
    assert "shape" in reasons["too_few", 9]
    assert reasons["failing", 1] == "failed: RuntimeError: no such kernel"


def test_the_reference_is_the_networks_own(subject, network):
    rows = subject.rows(100)
    scores, _ = network.reference(rows)
    np.testing.assert_allclose(subject.reference(rows), scores, rtol=1e-12)
    assert subject.multiply_adds_per_row == sum(weight.size for weight in network.weights)


def test_a_prototype_is_scored_by_its_reconstruction_error(tmp_path):
    network = Network.random([6, 3, 6])
    onnx = network.to_onnx(with_score=False)
    subject = subject_of(load_artifact(write_prototype(tmp_path / "p", onnx, input_dim=6, threshold=1.0)))
    rows = subject.rows(10)
    _, output = network.reference(rows)
    np.testing.assert_allclose(subject.reference(rows), ((rows - output) ** 2).mean(axis=1), rtol=1e-6)
    report = start_report([subject], {})
    contenders = [*our_contenders(), *peer_contenders()]
    run_python_level(report, [subject], contenders, batches=[4], budget_s=0.05)
    assert {one.contender for one in report.measurements} >= {"onnxruntime", "onnxruntime-python", "auto"}
    assert not [entry for entry in report.left_out if "wrong" in entry["reason"]]


def test_calls_are_timed_in_turns():
    order = []

    def pause(name, seconds):
        order.append(name)
        time.sleep(seconds)

    calls = {"a": functools.partial(pause, "a", 0.001), "b": functools.partial(pause, "b", 0.002)}
    timings = measure_in_turns(calls, budget_s=0.1, peak_gflops=lambda: 5.0)
    for name, seconds in (("a", 0.001), ("b", 0.002)):
        timing = timings[name]
        assert MIN_ROUNDS <= len(timing.rounds_us) <= MAX_ROUNDS
        assert len(timing.peaks_gflops) == len(timing.rounds_us)
        assert timing.calls_per_sample == 1
        assert min(timing.samples_us) >= 1e6 * seconds
    switches = sum(one != other for one, other in itertools.pairwise(order))
    assert switches >= MIN_ROUNDS


def test_short_calls_are_timed_in_groups():
    timings = measure_in_turns({"short": lambda: None}, budget_s=0.02, peak_gflops=lambda: 5.0)
    assert timings["short"].calls_per_sample > 50
    assert min(timings["short"].samples_us) < 5


def test_the_roof_is_plausible():
    roofs = measure_roof(0.05)
    assert roofs[-1].isa == "portable"
    for roof in roofs:
        assert 0.05 < roof.gflops < 2000
        assert 0.05 < roof.memory_gb_s < 2000

    def agree() -> bool:
        """Whether the peak alone is what the roof says, and a cache no slower than memory."""
        roof = measure_roof(0.05)[0]
        peak_gflops = measure_gflops(roof.isa, 0.02)
        return abs(peak_gflops / roof.gflops - 1) < 0.5 and roof.l1_gb_s > 0.5 * roof.memory_gb_s

    # Other work on the core may spoil any one measurement, but not all.
    assert any(agree() for _ in range(20))
    with pytest.raises(InvalidInputError, match="portable"):
        measure_gflops("sse9", 0.01)
    with pytest.raises(InvalidInputError, match="greater than 0"):
        measure_roof(0)
