"""Who is measured: our backends, and the runtimes that a user would otherwise call from Python."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from datasentinel import backend
from datasentinel.detector import Detector

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnxruntime

    from datasentinel.bench.subject import Subject
    from datasentinel.types import Float32Array

BASELINE = "onnxruntime-python"


@dataclass(frozen=True)
class Contender:
    """Something that scores rows.

    Attributes
    ----------
    name : str
        What results call it.
    settings : str
        How it is configured, in words.
    prepare : callable
        Given a subject and a buffer of rows, loads the model and returns a function that scores what it holds
        at the time of the call. Everything that can be done once is done here, for every contender
        alike.
    unavailable : str
        Why it cannot run here; empty when it can.
    """

    name: str
    settings: str
    prepare: Callable[[Subject, Float32Array], Callable[[], Float32Array]]
    unavailable: str = ""


def our_contenders() -> list[Contender]:
    """Every backend by name, and `auto`, through `Detector.score` with `out=`."""
    contenders = [
        Contender(
            name=status.name,
            settings="Detector.score(rows, out=scores), 1 thread",
            prepare=functools.partial(_prepare_ours, status.name),
            unavailable=status.detail if status.availability != "available" else "",
        )
        for status in backend.backends()
    ]
    auto = Contender(
        "auto",
        "the measured plan; Detector.score(rows, out=scores), 1 thread",
        functools.partial(_prepare_ours, "auto"),
    )
    return [*contenders, auto]


def peer_contenders() -> list[Contender]:
    """ONNX Runtime's Python API and OpenVINO, each at its best single-threaded settings."""
    return [
        Contender(
            BASELINE,
            "InferenceSession.run(['score'], {'input': rows}), 1 thread, all graph optimisations",
            _prepare_onnxruntime,
            _missing("onnxruntime", "cpu"),
        ),
        Contender(
            "openvino",
            "CPU, latency hint, 1 thread, 1 stream, float32, shape fixed to the batch, infer request reused, "
            "input tensor shared with the rows",
            _prepare_openvino,
            _missing("openvino", "bench"),
        ),
    ]


def _missing(package: str, extra: str) -> str:
    if importlib.util.find_spec(package) is not None:
        return ""
    return f"{package} is not installed; run `pip install 'datasentinel[{extra}]'`"


def _prepare_ours(name: str, subject: Subject, rows: Float32Array) -> Callable[[], Float32Array]:
    detector = Detector(subject.artifact, backend=name)
    return functools.partial(detector.score, rows, np.empty(len(rows), np.float32))


def reconstruction_error(rows: Float32Array, output: Float32Array) -> Float32Array:
    """Score in NumPy the output of a model without `score`."""
    difference = rows - output
    score: Float32Array = np.einsum("ij,ij->i", difference, difference) / np.float32(rows.shape[1])
    return score


def onnxruntime_session(subject: Subject) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session: CPU, one thread, all optimisations, quiet."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(subject.artifact.onnx, options, providers=["CPUExecutionProvider"])


def _prepare_onnxruntime(subject: Subject, rows: Float32Array) -> Callable[[], Float32Array]:
    session = onnxruntime_session(subject)
    feed = {session.get_inputs()[0].name: rows}
    outputs = [output.name for output in session.get_outputs()]
    if "score" in outputs:
        run = functools.partial(session.run, ["score"], feed)
        return lambda: run()[0]
    run = functools.partial(session.run, outputs[:1], feed)
    return lambda: reconstruction_error(rows, run()[0])


def _prepare_openvino(subject: Subject, rows: Float32Array) -> Callable[[], Float32Array]:
    import openvino

    core = openvino.Core()
    model = core.read_model(subject.artifact.onnx)
    model.reshape([rows.shape[0], rows.shape[1]])
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(0, openvino.Tensor(rows, shared_memory=True))
    names = [output.get_any_name() for output in compiled.outputs]
    if "score" in names:
        scores = request.get_output_tensor(names.index("score")).data
        # The infer request itself, without the dictionaries of its Python wrapper.
        return lambda: (request.infer(share_outputs=True), scores)[1]
    output = request.get_output_tensor(0).data
    return lambda: (request.infer(share_outputs=True), reconstruction_error(rows, output))[1]
