"""The same network in torch: eager, compiled, and compiled in a CUDA graph.

The rows' shape is static and the weights are on the device. The graph is captured by hand over buffers that
never change: that leaves less work around it than `mode="reduce-overhead"`, which is measured beside it.
"""

from __future__ import annotations

import functools
import importlib.util
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.cases import PLACES, Call, Contender, NotRun, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.networks import Network

GRAPHS = "torch.compile, CUDA graphs"
EAGER = "torch eager"
_LOWER = ("tf32", "bf16", "fp16")
# Rows in ordinary memory up to here go through page-locked buffers inside the graph; of more, the driver
# copies faster.
_STAGED_BYTES = 64 << 10


def torch_contenders() -> list[Contender]:
    return [
        Contender(GRAPHS, PLACES, functools.partial(_prepare_graph, "float32")),
        Contender("torch.compile", PLACES, functools.partial(_prepare_plain, "compiled")),
        Contender(EAGER, PLACES, functools.partial(_prepare_plain, "eager")),
        *(
            Contender(GRAPHS, ("device",), functools.partial(_prepare_graph, precision), precision, True)
            for precision in _LOWER
        ),
        Contender(
            "torch.compile, reduce-overhead",
            ("device",),
            functools.partial(_prepare_plain, "reduce-overhead"),
            optional=True,
        ),
    ]


def import_torch(device: str) -> Any:
    """Give torch, or say why it cannot run on the device."""
    if not importlib.util.find_spec("torch"):
        raise NotRun("torch is not installed")
    import torch  # noqa: TID251

    if device == "cuda" and not torch.cuda.is_available():
        raise NotRun(f"torch {torch.__version__} has no CUDA here")
    return torch


@contextmanager
def matmul_precision(torch: Any, precision: str) -> Iterator[None]:
    """How float32 matrix products are computed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def make_score(torch: Any, network: Network, device: str, precision: str) -> Callable[[Any], Any]:
    """The network as a function of rows on the device."""
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    mean, scale = (torch.from_numpy(value).to(device) for value in (network.mean, network.scale))
    layers = [
        (torch.from_numpy(weight).to(device, low), torch.from_numpy(bias).to(device, low))
        for weight, bias in zip(network.weights, network.biases, strict=True)
    ]

    def score(x: Any) -> Any:
        z = (x - mean) / scale
        h = z.to(low)
        for index, (weight, bias) in enumerate(layers):
            h = torch.addmm(bias, torch.relu(h) if index else h, weight)
        return ((z - h.float()) ** 2).mean(dim=1)

    return score


def _synchronize(torch: Any, device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device == "cuda" else lambda: None


class _Compiled:
    """Compiled functions of the batch at hand: compiling takes seconds, and every place uses the same."""

    def __init__(self) -> None:
        self._batch: tuple[Any, ...] = ()
        self._functions: dict[tuple[str, str], Callable[[Any], Any]] = {}

    def get(self, torch: Any, setting: Setting, how: str, precision: str) -> Callable[[Any], Any]:
        batch = (setting.subject.name, setting.rows, setting.device)
        if batch != self._batch:
            torch.compiler.reset()
            self._functions.clear()
            self._batch = batch
        if (how, precision) not in self._functions:
            score = make_score(torch, setting.network, setting.device, precision)
            if how != "eager":
                mode = "reduce-overhead" if how == "reduce-overhead" else None
                score = torch.compile(score, dynamic=False, fullgraph=True, mode=mode)
            self._functions[how, precision] = score
        return self._functions[how, precision]


_compiled = _Compiled()


def _prepare_plain(how: str, setting: Setting) -> Call:
    torch = import_torch(setting.device)
    score = _compiled.get(torch, setting, how, "float32")
    synchronize = _synchronize(torch, setting.device)
    width = setting.subject.input_dim
    if setting.place == "device":
        rows = torch.empty((setting.rows, width), device=setting.device)
        result: list[Any] = [None]

        def on_device() -> None:
            with torch.inference_mode():
                result[0] = score(rows)
            synchronize()

        def scores() -> np.ndarray:
            return result[0].cpu().numpy()

        return Call(lambda values: _copy(torch, rows, values, synchronize), on_device, scores)

    held = [torch.zeros((setting.rows, width))]
    out = torch.from_numpy(setting.host_array(setting.rows))

    def load(values: np.ndarray) -> None:
        held[0] = torch.from_numpy(values)

    def both_ways() -> None:
        with torch.inference_mode():
            out.copy_(score(held[0].to(setting.device, non_blocking=True)), non_blocking=True)
        synchronize()

    return Call(load, both_ways, out.numpy)


def _copy(torch: Any, target: Any, values: np.ndarray, synchronize: Callable[[], None]) -> None:
    with torch.inference_mode():
        target.copy_(torch.from_numpy(values))
    synchronize()


def _prepare_graph(precision: str, setting: Setting) -> Call:
    torch = import_torch(setting.device)
    if setting.device != "cuda":
        raise NotRun(f"CUDA graphs need CUDA, and the device is {setting.device}")
    with matmul_precision(torch, precision):
        return _capture(torch, precision, setting)


def _capture(torch: Any, precision: str, setting: Setting) -> Call:
    score = _compiled.get(torch, setting, "compiled", precision)
    width = setting.subject.input_dim
    rows = torch.zeros((setting.rows, width), device="cuda")
    staged = setting.place == "pinned" or (
        setting.place == "host" and 4 * width * setting.rows <= _STAGED_BYTES
    )
    rows_in = torch.zeros((setting.rows, width), pin_memory=True) if staged else None
    scores_out = torch.zeros(setting.rows, pin_memory=True) if staged else None

    def work() -> Any:
        if rows_in is not None:
            rows.copy_(rows_in, non_blocking=True)
        result = score(rows)
        if scores_out is not None:
            scores_out.copy_(result, non_blocking=True)
        return result

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        result = work()
    synchronize = torch.cuda.synchronize

    def replay() -> None:
        graph.replay()
        synchronize()

    if setting.place == "device":
        load = functools.partial(_copy, torch, rows, synchronize=synchronize)
        return Call(load, replay, lambda: result.cpu().numpy())
    if rows_in is not None and scores_out is not None and setting.place == "pinned":
        buffer = rows_in.numpy()
        return Call(lambda values: np.copyto(buffer, values), replay, scores_out.numpy)

    held = [np.zeros((setting.rows, width), np.float32)]
    out = np.empty(setting.rows, np.float32)

    def load_host(values: np.ndarray) -> None:
        held[0] = values

    if rows_in is not None and scores_out is not None:
        buffer, answers = rows_in.numpy(), scores_out.numpy()

        def through_buffers() -> None:
            buffer[...] = held[0]
            replay()
            out[...] = answers

        return Call(load_host, through_buffers, lambda: out)

    out_tensor = torch.from_numpy(out)

    def through_driver() -> None:
        rows.copy_(torch.from_numpy(held[0]))
        graph.replay()
        out_tensor.copy_(result)

    return Call(load_host, through_driver, lambda: out)
