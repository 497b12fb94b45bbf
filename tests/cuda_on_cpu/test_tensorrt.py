"""The tensorrt backend on the simulated device, with a TensorRT whose engines answer alike for all rows."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.networks import Network, write_artifact

_ROOT = Path(__file__).parents[2]

# Each case loads the model and scores in a cache folder of its own, once with calls that fail and once without.
SCRIPT = """
import ctypes, json, os, sys
import numpy as np
from datasentinel import Detector
from datasentinel.errors import DataSentinelError
from datasentinel.gpu import EngineOptions
from tests.cuda_on_cpu.libcuda import Cuda

folder, caches, cases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
cuda, nvinfer = Cuda(), ctypes.CDLL(os.environ["DATASENTINEL_TENSORRT_LIBRARY"])
rows = np.full((500, 33), 2, np.float32)

def fail(plan):
    cuda.fail(plan)
    nvinfer.nvinfer_fail(plan.encode())

def attempt(function, *arguments):
    try:
        return function(*arguments)
    except DataSentinelError as error:
        return f"{type(error).__name__}: {error}"

def load(case):
    engine = EngineOptions(**case.get("engine", {}))
    return Detector.load(folder, backend="tensorrt", engine=engine, precision=case.get("precision", "float32"))

def ask(detector, case):
    answers = {}
    for what in case.get("asked", ["score"]):
        answer = attempt(getattr(detector, what), rows[:case.get("rows", 3)])
        answers[what] = answer if isinstance(answer, str) else sorted(set(map(float, answer.ravel())))
    return answers

def outcome(case):
    fail(case.get("loading", ""))
    detector = attempt(load, case)
    error = detector if isinstance(detector, str) else None
    fail("")
    if error is not None and isinstance(detector := attempt(load, case), str):
        return {"error": error, "again": detector}
    before = ask(detector, case) if case.get("used", False) else None
    fail(case.get("scoring", ""))
    during = ask(detector, case)
    fail("")
    return {"error": error, "before": before, "during": during, "after": ask(detector, case),
            "facts": detector.info()["facts"]}

outcomes = []
for number, case in enumerate(cases):
    settings = case.get("settings", {}) | {"DATASENTINEL_CACHE_DIR": f"{caches}/{case.get('cache', number)}"}
    os.environ.update(settings)
    outcomes.append(outcome(case))
    for name in settings:
        del os.environ[name]
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def library(device) -> Path:
    path = device.folder / "libnvinfer.so.11"
    source = Path(__file__).with_name("nvinfer.cpp")
    command = ["c++", "-std=c++20", "-w", "-shared", "-fPIC", f"-I{_ROOT / 'csrc'}", "-o", str(path)]
    subprocess.run([*command, str(source), "-ldl"], check=True, timeout=300)
    path.with_name("libnvonnxparser.so.11").symlink_to(path)
    return path


@pytest.fixture
def outcomes(device, library, tmp_path):
    """What becomes of cases, all in one process; `caches/0/engines` is what the first one keeps."""
    onnx_bytes = Network.random([33, 4, 33]).to_onnx(with_contributions=True)
    model = write_artifact(tmp_path / "model", onnx_bytes, input_dim=33, threshold=1.0)
    environment = device.environment(memory_mib=256) | {"DATASENTINEL_TENSORRT_LIBRARY": str(library)}

    def of(*cases: dict) -> list[dict]:
        arguments = ("-c", SCRIPT, str(model), str(tmp_path / "caches"), json.dumps(cases))
        done = device.run(*arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return of


def of_tensorrt(doing: str, function: str) -> str:
    return f"BackendError: {doing}: TensorRT 11.4.0 says: {function}"


def test_an_error_that_passes_does_not_end_the_session(outcomes):
    cases = {
        "cuMemcpyHtoDAsync_v2:1=2": "OutOfMemoryError: copying rows to the device: CUDA says: out of memory",
        "cuMemcpyHtoDAsync_v2:2=2": "BackendError: running the engine: TensorRT 11.4.0 says: ",
        "cuMemcpyDtoHAsync_v2:1=999": "BackendError: copying results from the device: CUDA says: error 999",
        "createExecutionContext:1=1": of_tensorrt("making an execution context", "createExecutionContext"),
        "setOptimizationProfileAsync:1=1": of_tensorrt("choosing a profile", "setOptimizationProfileAsync"),
        "setInputShape:1=1": of_tensorrt("setting the batch size", "setInputShape"),
        "setTensorAddress:1=1": of_tensorrt("binding memory", "setTensorAddress"),
        "enqueueV3:1=1": of_tensorrt("running the engine", "enqueueV3"),
    }
    for outcome, error in zip(
        outcomes(*({"scoring": fault, "rows": 50} for fault in cases)), cases.values(), strict=True
    ):
        assert outcome["during"] == {"score": error}
        assert outcome["after"] == {"score": [0.5]}


def test_an_error_of_a_graph_does_not_end_the_session(outcomes):
    (outcome,) = outcomes({"scoring": "cuGraphLaunch:1=999", "used": True})
    assert outcome["before"] == outcome["after"] == {"score": [0.5]}
    assert outcome["during"] == {"score": "BackendError: launching a CUDA graph: CUDA says: error 999"}


@pytest.mark.parametrize("fault", ["enqueueV3:2=1", "cuGraphInstantiateWithFlags:1=999"])
def test_an_engine_that_cannot_be_captured_runs_call_by_call(outcomes, fault):
    (outcome,) = outcomes({"scoring": fault, "rows": 50})
    assert outcome["during"] == outcome["after"] == {"score": [0.5]}


def test_an_error_that_stays_ends_the_session(outcomes):
    (outcome,) = outcomes({"scoring": "cuStreamSynchronize:2=700", "rows": 50})
    assert outcome["during"]["score"].startswith(
        "BackendError: running the engine: CUDA says: an illegal memory access"
    )
    assert outcome["after"]["score"] == (
        "BackendError: tensorrt: this session failed before; load the model again"
    )


def test_a_failing_build_says_what_failed_and_the_next_is_tried(outcomes):
    parser = "no such thing (node 0, Loop); no such thing (node 1); no such thing"
    sizes = "TensorRT refuses the batch sizes of input 'input': it must be [batch, D] with a fixed D"
    cases = {
        "createInferBuilder:1=1": of_tensorrt("making a builder", "createInferBuilder"),
        "createNetworkV2:1=1": of_tensorrt("making a network", "createNetworkV2"),
        "createBuilderConfig:1=1": of_tensorrt("making a network", "createBuilderConfig"),
        "createNvOnnxParser:1=1": of_tensorrt("making an ONNX parser", "createNvOnnxParser"),
        "parse:1=1": f"UnsupportedModelError: 'MODEL': TensorRT's parser refuses it: {parser}",
        "getNbInputs:1=1,getNbInputs:2=1": "UnsupportedModelError: expected 1 input, the graph has 2",
        "setDimensions:1=1": f"UnsupportedModelError: {sizes}",
        "setDimensions:2=1": f"UnsupportedModelError: {sizes}",
        "setDimensions:3=1": f"UnsupportedModelError: {sizes}",
        "addOptimizationProfile:1=1": f"UnsupportedModelError: {sizes}",
        "buildSerializedNetwork:1=1": of_tensorrt("building an engine for 'MODEL'", "buildSerializedNetwork"),
        "createInferRuntime:1=1": of_tensorrt("making a runtime", "createInferRuntime"),
        "deserializeCudaEngine:1=1": of_tensorrt("loading the engine of 'MODEL'", "deserializeCudaEngine"),
    }
    for outcome, error in zip(
        outcomes(*({"loading": fault} for fault in cases)), cases.values(), strict=True
    ):
        assert re.sub("'[^']*model[^']*'", "'MODEL'", outcome["error"]) == error
        assert outcome["after"] == {"score": [0.5]}


def test_timings_are_a_hint_that_a_build_does_without(outcomes, tmp_path):
    faults = ["", "createTimingCache:1=1", "createTimingCache:1=1,createTimingCache:2=1", "serialize:1=1"]
    for outcome in outcomes(*({"loading": fault} for fault in faults)):
        assert outcome["error"] is None
        assert outcome["after"] == {"score": [0.5]}
    kept = [len(list((tmp_path / "caches" / str(case) / "engines").glob("timing-*"))) for case in range(4)]
    assert kept == [1, 1, 0, 0]


def test_the_builder_is_told_the_options(outcomes, tmp_path):
    engine = {
        "version_compatible": True,
        "hardware_compatible": True,
        "workspace_mib": 8,
        "optimization_level": 1,
    }
    for outcome in outcomes({}, {"engine": engine}, {"precision": "tf32"}):
        assert outcome["after"] == {"score": [0.5]}
        assert outcome["facts"]["engine"] == "built"
    engines = [next((tmp_path / f"caches/{case}/engines").glob("*.engine")).read_bytes() for case in range(3)]
    texts = [engine[engine.rindex(b"\n") + 1 :].decode() for engine in engines]
    # TF32 is the flag 6, and on unless it is cleared; 12 is a compatible version.
    assert texts == [
        "engine level 3 without 6",
        "engine level 1 workspace 8388608 without 6 with 12 hardware 1",
        "engine level 3",
    ]


def test_a_kept_engine_is_used_and_one_that_does_not_load_is_built_anew(outcomes):
    kept = {"cache": "kept"}
    first, again, anew = outcomes(kept, kept, kept | {"loading": "deserializeCudaEngine:1=1"})
    assert [first["facts"]["engine"], again["facts"]["engine"]] == ["built", "from the cache"]
    assert anew["error"] is None
    assert anew["facts"]["engine"] == "built"
    assert anew["after"] == {"score": [0.5]}


def test_a_graph_that_is_no_detector_is_refused(outcomes):
    fixed = "input 'input' must be float32 [batch, D] with a fixed D"
    neither = "output 'odd' is neither 'score' [batch] nor 'output' or 'contributions' [batch, D] in float32"
    cases = [
        ({"NVINFER_TYPE": "1"}, fixed),
        ({"NVINFER_ROWS": "2"}, fixed),
        ({"NVINFER_INPUT": "state"}, "the tensorrt backend runs no models with memory"),
        ({"NVINFER_OUTPUTS": "odd"}, neither),
        ({"NVINFER_OUTPUTS": "contributions"}, "it has neither 'score' nor 'output'"),
    ]
    for outcome, (_, words) in zip(outcomes(*({"settings": case} for case, _ in cases)), cases, strict=True):
        assert outcome["error"] == outcome["again"]
        assert outcome["error"].startswith("UnsupportedModelError: '")
        assert outcome["error"].endswith(f"': {words}")


def test_every_kind_of_answer(outcomes):
    everything = {"asked": ["score", "reconstruct", "contributions"], "rows": 250}
    engine = {"engine": {"max_rows": 100}}
    only_scores, only_reconstructs, explains, fixed = outcomes(
        everything | engine,
        everything | engine | {"settings": {"NVINFER_OUTPUTS": "output"}},
        everything | engine | {"settings": {"NVINFER_OUTPUTS": "score,output,contributions"}},
        everything
        | engine
        | {"settings": {"NVINFER_OUTPUTS": "score,output,contributions", "NVINFER_ROWS": "1"}},
    )
    assert only_scores["after"] == {
        "score": [0.5],
        "reconstruct": "UnsupportedModelError: this model scores only; it has no output 'output'",
        "contributions": "UnsupportedModelError: this model does not explain its scores; "
        "it has no output 'contributions'",
    }
    # Of rows of twos, which are reconstructed as zeros.
    assert only_reconstructs["after"]["score"] == [4]
    assert only_reconstructs["after"]["reconstruct"] == [0]
    assert only_reconstructs["after"]["contributions"] == pytest.approx([4 / 33])
    assert only_reconstructs["facts"]["score"] == "mean squared error, by the core"
    for outcome, largest in ((explains, "100"), (fixed, "1")):
        assert outcome["during"] == outcome["after"]
        assert outcome["after"] == {"score": [0.5], "reconstruct": [0], "contributions": [0.25]}
        assert outcome["facts"]["largest batch"] == largest


def test_what_it_does_not_do_is_refused(outcomes):
    too_many, half = outcomes({"engine": {"max_rows": 1 << 20}}, {"precision": "bf16"})
    assert too_many["error"].startswith("InvalidInputError: '")
    assert too_many["error"].endswith(
        "': 1048576 rows of 33 values are too many for one batch of the tensorrt backend; lower engine_max_rows"
    )
    assert half["error"] == (
        "UnsupportedModelError: the tensorrt backend computes in the precision of the graph; 'bf16' is not "
        "available, only float32 and, for its float32 layers, tf32"
    )
