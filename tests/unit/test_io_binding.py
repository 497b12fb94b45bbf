"""ONNX Runtime's IO binding, on memory of the CPU: the code that also runs on a GPU's."""

from __future__ import annotations

import numpy as np
import pytest

from datasentinel import Detector
from datasentinel.errors import InvalidInputError, UnsupportedModelError
from datasentinel.gpu import EngineOptions
from tests.bound_scores import SIZES, check_callers_at_once, check_every_answer, rows_of
from tests.networks import Network, write_artifact

DIMS = [8, 6, 3, 6, 8]
RTOL = 5e-5


@pytest.fixture(scope="module")
def network() -> Network:
    return Network.random(DIMS)


@pytest.fixture(params=["on", "cuda-graphs"])
def io_binding(request) -> str:
    return request.param


@pytest.fixture
def load(tmp_path, network, io_binding):
    def load_as(max_rows: int = 8192, **graph: object) -> Detector:
        folder = write_artifact(tmp_path, network.to_onnx(**graph), input_dim=DIMS[0], threshold=1.0)
        engine = EngineOptions(io_binding=io_binding, max_rows=max_rows)
        return Detector.load(folder, backend="onnxruntime", engine=engine)

    return load_as


@pytest.mark.parametrize("max_rows", [1, 100, 8192])
def test_every_answer_is_the_reference_s(load, network, max_rows):
    detector = load(max_rows, with_contributions=True)
    for count in SIZES if max_rows == 8192 else (1, 2, 3, 99, 100, 101, 257):
        check_every_answer(detector, network, rows_of(network, count), RTOL)


def test_rows_of_an_earlier_batch_leave_no_trace(load, network):
    detector = load(with_contributions=True)
    for count in (8, 5, 8, 6, 1, 7):
        check_every_answer(detector, network, rows_of(network, count, seed=count), RTOL)


def test_the_core_scores_and_explains_what_the_graph_only_reconstructs(load, network):
    detector = load(with_score=False)
    rows = rows_of(network, 300)
    reconstructions = network.reference(rows)[1]
    squares = (rows - reconstructions) ** 2
    np.testing.assert_allclose(detector.score(rows), squares.mean(axis=1), rtol=RTOL)
    np.testing.assert_allclose(detector.contributions(rows), squares / DIMS[0], rtol=RTOL, atol=RTOL)
    np.testing.assert_allclose(detector.reconstruct(rows), reconstructions, rtol=RTOL, atol=RTOL)


def test_a_graph_with_a_fixed_batch_of_one_takes_its_rows_one_by_one(load, network):
    detector = load(batch=1, with_contributions=True)
    check_every_answer(detector, network, rows_of(network, 50), RTOL)
    assert detector.info()["facts"]["io binding"].endswith("up to 1 rows")


def test_callers_at_once_do_not_meet(load, network):
    check_callers_at_once(load(64), network, RTOL)


def test_a_refusal_reaches_the_caller_and_the_next_call_is_answered(load, network):
    detector = load(with_output=False)
    rows = rows_of(network, 3)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="scores only"):
            detector.reconstruct(rows)
        np.testing.assert_allclose(detector.score(rows), network.reference(rows)[0], rtol=RTOL)


def test_the_facts_tell_how_it_runs(load, io_binding):
    facts = load(100).info()["facts"]
    assert facts["io binding"] == "batches of powers of two, up to 100 rows"
    expected = {"on": "no", "cuda-graphs": "no: CPUExecutionProvider captures none"}
    assert facts["cuda graphs"] == expected[io_binding]


@pytest.mark.parametrize("io_binding", ["auto", "off"])
def test_the_cpu_works_in_the_caller_s_memory_unless_asked(load):
    facts = load().info()["facts"]
    assert (facts["io binding"], facts["cuda graphs"]) == ("no", "no")


def test_an_unknown_choice_is_refused():
    with pytest.raises(InvalidInputError, match="io_binding must be one of auto, off, on, cuda-graphs, got"):
        EngineOptions(io_binding="yes")
