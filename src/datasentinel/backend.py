"""The way into the C++ engine: backends, their state on this machine, and loaded models."""

from __future__ import annotations

import functools
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from datasentinel import plan_cache
from datasentinel.calibration import ScoreTable, feature_histograms
from datasentinel.errors import ArtifactError, InvalidInputError
from datasentinel.extension import native as _native
from datasentinel.gpu import EngineOptions
from datasentinel.libraries import find_nvrtc, find_onnxruntime, find_tensorrt, nghttp2_paths
from datasentinel.plan_cache import PlanKey, PlanRecord
from datasentinel.precisions import COMPUTE_PRECISIONS
from datasentinel.types import BACKEND_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasentinel.artifact import Artifact

BackendStatus = _native.BackendStatus
BuiltEngine = _native.BuiltEngine
GrpcService = _native.GrpcService
GrpcSession = _native.GrpcSession
HttpService = _native.HttpService
HttpSession = _native.HttpSession
InferenceService = _native.InferenceService
LineSession = _native.LineSession
ModelTable = _native.ModelTable
Nghttp2 = _native.Nghttp2
RequestCounts = _native.RequestCounts
PValueTable = _native.PValueTable
Scorer = _native.Scorer
Shadow = _native.Shadow
WallClock = _native.WallClock
StateStore = _native.StateStore
StreamRules = _native.StreamRules
error_name = _native.error_name
error_table = _native.error_table

_log = logging.getLogger(__name__)

DEFAULT_PLAN_BUDGET_S = 1.0
# Of more columns none is counted: a sample of a row takes some 20 ns a column.
_MAX_COUNTED_COLUMNS = 256


@functools.cache
def _registry() -> _native.Registry:
    return _native.Registry(
        {
            "onnxruntime": find_onnxruntime(),
            "tensorrt": find_tensorrt(),
            "fused-cuda": find_nvrtc(),
        }
    )


def backends() -> list[BackendStatus]:
    """Report for every backend whether it can run here, and if not, why.

    Returns
    -------
    list of BackendStatus
        In order of preference; each has `name`, `availability` ("available", "not built", "library not
        found", "no device"), `detail`, `version` and `library`.
    """
    return _registry().status()


def build_info() -> dict[str, str]:
    """Return how the extension was built: version, compiler, build type."""
    return _native.build_info()


@functools.cache
def open_nghttp2() -> Nghttp2:
    """Open libnghttp2, on which gRPC is served; `str` of it has its version and path.

    Raises
    ------
    BackendUnavailableError
        It cannot be opened; the message has the loader's reasons.
    """
    return Nghttp2(nghttp2_paths(Path(_native.__file__)))


def cpu_features() -> list[str]:
    """Name the vector extensions of this CPU that matter to the kernels, e.g. ``["avx2", "fma"]``."""
    return _native.cpu_features()


def inspect_model(onnx: bytes, *, name: str) -> _native.ModelInfo:
    """Read an ONNX graph's signature without running it.

    Parameters
    ----------
    onnx : bytes
        The serialised model.
    name : str
        What messages call it, usually the file's path.

    Returns
    -------
    ModelInfo
        With `opset`, `operators`, `inputs` and `outputs` (each `name`, `dtype`, `shape`; -1 is dynamic).

    Raises
    ------
    ArtifactError
        The bytes are not a sound ONNX model.
    """
    return _native.inspect_model(onnx, name=name)


def _check_signature(artifact: Artifact) -> None:
    """Compare the graph with what config.json promises, so that a mix-up fails at load, not at scoring."""
    model_path = artifact.directory / "model.onnx"
    graph = _native.inspect_model(artifact.onnx, name=str(model_path))
    config = artifact.config
    config_path = artifact.directory / "config.json"
    states = [tensor for tensor in graph.inputs if tensor.name == "state"]
    if bool(states) != bool(config.state) or (states and states[0].shape[-1] != config.state_size):
        raise ArtifactError(
            f"{config_path}: key 'state': its size is {config.state_size}, but {model_path} has "
            + (f"an input 'state' of shape {list(states[0].shape)}" if states else "no input 'state'")
        )
    inputs = [tensor for tensor in graph.inputs if tensor.name != "state"]
    if len(inputs) != 1:
        raise ArtifactError(f"{model_path}: expected 1 input, the graph has {len(inputs)}")
    (graph_input,) = inputs
    if len(graph_input.shape) == 2 and graph_input.shape[1] not in (-1, config.input_dim):
        raise ArtifactError(
            f"{config_path}: input_dim is {config.input_dim}, but input '{graph_input.name}' of {model_path} "
            f"has {graph_input.shape[1]} columns"
        )
    for output in graph.outputs:
        is_wide = output.name in {"output", "contributions"} and len(output.shape) == 2
        columns = output.shape[1] if is_wide else -1
        if columns not in (-1, config.output_dim):
            raise ArtifactError(
                f"{config_path}: output_dim is {config.output_dim}, but output '{output.name}' of "
                f"{model_path} has {columns} columns"
            )


def load_p_values(artifact: Artifact) -> PValueTable | None:
    """Load the p-values of an artifact; None where its calibration has none.

    Raises
    ------
    ArtifactError
        The calibration is broken.
    """
    table = ScoreTable.of_config(artifact.config)
    if table is None:
        return None
    return PValueTable(scores=table.scores.tolist(), greater=table.greater.tolist(), rows=table.rows)


def _plan_key(sha256: str, num_threads: int, precision: str, engine: EngineOptions) -> PlanKey:
    extension = Path(_native.__file__).stat()
    versions = [f"{status.name} {status.version}" for status in backends()]
    versions += [f"{extension.st_size}-{extension.st_mtime_ns}", os.environ.get("DATASENTINEL_ISA", "")]
    versions += [repr(engine)]
    return PlanKey(
        model_sha256=sha256,
        cpu=f"{plan_cache.cpu_identity()} {' '.join(cpu_features())}",
        gpus=plan_cache.gpu_identity(),
        num_threads=num_threads,
        precision=precision,
        versions=tuple(versions),
    )


def _load_planned(load: Callable[..., Scorer], key: PlanKey, plan_budget_s: float) -> Scorer:
    """Follow the remembered plan, or measure one and remember it."""
    record = plan_cache.load(key)
    if record is not None:
        try:
            plan = _native.Plan(steps=record.steps, timings=record.timings, refusals=record.refusals)
            return load(plan=plan)
        except (InvalidInputError, TypeError, UnicodeEncodeError):
            _log.info("the remembered plan does not fit this machine any more; measuring a new one")
    scorer = load(plan_budget_s=plan_budget_s)
    if scorer.plan.timings:
        plan_cache.store(
            key,
            PlanRecord(
                steps=tuple(scorer.plan.steps),
                timings=tuple(scorer.plan.timings),
                refusals=tuple(scorer.plan.refusals),
            ),
        )
    return scorer


def _native_options(
    engine: EngineOptions, on_progress: Callable[[str, int, int], None] | None
) -> _native.EngineOptions:
    return _native.EngineOptions(
        optimization_level=engine.optimization_level,
        workspace_mib=engine.workspace_mib,
        max_rows=engine.max_rows,
        hardware_compatible=engine.hardware_compatible,
        version_compatible=engine.version_compatible,
        io_binding=engine.io_binding,
        cache_dir=str(plan_cache.cache_dir() / "engines"),
        progress=on_progress,
    )


def build_engines(
    artifact: Artifact,
    architectures: Sequence[int],
    *,
    backend: str = "tensorrt",
    precision: str = "float32",
    engine: EngineOptions | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[BuiltEngine]:
    """Build an artifact's engines for given compute capabilities and keep them. Needs no GPU.

    Parameters
    ----------
    artifact : Artifact
        A loaded artifact.
    architectures : sequence of int
        Compute capabilities without their dot, such as 89.
    backend, precision, engine, on_progress
        As for `load_scorer`, which takes the engine from the user's cache folder on such a device.

    Returns
    -------
    list of BuiltEngine
        In the order asked for; each has `architecture`, `library` (what built it), `size_bytes` and `built`
        (False where it was there already).

    Raises
    ------
    InvalidInputError
        There is no such backend.
    ArtifactError
        The graph is broken or contradicts config.json.
    BackendUnavailableError
        The backend or its library cannot build without a device.
    UnsupportedModelError, BackendError
        The library refuses the model or the compute capability, in its own words.
    """
    if backend not in BACKEND_NAMES:
        raise InvalidInputError(f"unknown backend '{backend}'; known: {', '.join(BACKEND_NAMES)}")
    _check_signature(artifact)
    return _registry().build_for(
        artifact.onnx,
        name=str(artifact.directory / "model.onnx"),
        backend=backend,
        precision=precision,
        sha256=artifact.sha256,
        engine=_native_options(engine or EngineOptions(), on_progress),
        architectures=architectures,
    )


def load_scorer(
    artifact: Artifact,
    *,
    backend: str = "auto",
    num_threads: int = 1,
    precision: str = "float32",
    plan_budget_s: float = DEFAULT_PLAN_BUDGET_S,
    engine: EngineOptions | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Scorer:
    """Load an artifact's model into a backend.

    Parameters
    ----------
    artifact : Artifact
        A loaded artifact.
    backend : str
        "auto" or the name of a backend. A named backend that cannot run is an error, never replaced.
    num_threads : int
        Threads that one call may use.
    precision : str
        What layers are multiplied in: "float32", or "tf32", "bf16" or "fp16" where the backend offers it.
    plan_budget_s : float
        For "auto": about how long measuring the backends may take when no plan for this model, machine and
        set of libraries is remembered. 0 takes the first backend that can run the model.
    engine : EngineOptions, optional
        How a backend that compiles models for a device is to do so.
    on_progress : callable, optional
        Called with (phase, step, steps) while an engine is built, perhaps from another thread; raising ends
        the build.

    Returns
    -------
    Scorer
        Validates, scores and counts rows; safe to use from several threads.

    Raises
    ------
    InvalidInputError
        Unknown backend or a bad option.
    ArtifactError
        The graph is broken or contradicts config.json.
    UnsupportedModelError, BackendUnavailableError, BackendError
        The backend cannot run the model, or cannot run here.
    """
    if backend not in BACKEND_NAMES:
        raise InvalidInputError(f"unknown backend '{backend}'; known: {', '.join(BACKEND_NAMES)}")
    if precision not in COMPUTE_PRECISIONS:
        raise InvalidInputError(f"unknown precision '{precision}'; known: {', '.join(COMPUTE_PRECISIONS)}")
    if num_threads < 1:
        raise InvalidInputError(f"num_threads must be at least 1, got {num_threads}")
    if not 0 <= plan_budget_s < math.inf:
        raise InvalidInputError(f"plan_budget_s must be finite and not negative, got {plan_budget_s}")
    _check_signature(artifact)
    engine = engine or EngineOptions()
    table = ScoreTable.of_config(artifact.config)
    features = feature_histograms(artifact.config)
    load = functools.partial(
        _registry().load,
        artifact.onnx,
        name=str(artifact.directory / "model.onnx"),
        backend=backend,
        threshold=artifact.config.threshold,
        feature_names=list(artifact.config.feature_names),
        num_threads=num_threads,
        precision=precision,
        score_edges=table.histogram().edges.tolist() if table else [],
        feature_edges=[feature.edges.tolist() for feature in features]
        if len(features) <= _MAX_COUNTED_COLUMNS
        else [],
        sha256=artifact.sha256,
        warm_up_rows=artifact.config.warm_up_rows,
        engine=_native_options(engine, on_progress),
    )
    if backend != "auto" or plan_budget_s == 0:
        return load(plan_budget_s=plan_budget_s)
    return _load_planned(load, _plan_key(artifact.sha256, num_threads, precision, engine), plan_budget_s)
