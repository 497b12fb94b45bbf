"""The peers beyond those of `datasentinel bench`, on one thread; missing ones say what they lack."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.models import SIZES, random_autoencoder
from datasentinel.bench.contenders import Contender, onnxruntime_session, our_contenders, peer_contenders

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.bench.subject import Subject
    from tests.networks import Network


def all_contenders() -> list[Contender]:
    """Ours, then every peer that is called from Python."""
    torch_missing = _missing("torch")
    return [
        *our_contenders(),
        *peer_contenders(),
        Contender(
            "onnxruntime-iobinding",
            "as onnxruntime-python, but run_with_iobinding with input and score bound once",
            _prepare_iobinding,
            _missing("onnxruntime"),
        ),
        Contender("torch-eager", "inference_mode, 1 thread, input shared with the rows", _prepare_torch,
                  torch_missing),
        Contender(
            "torch-compile",
            "as torch-eager through torch.compile: Inductor, static shape, whole graph, weights frozen",
            functools.partial(_prepare_torch, compiled=True),
            torch_missing,
        ),
        Contender("numpy", "float32 matmul into arrays made once, BLAS limited to 1 thread", _prepare_numpy,
                  _missing("threadpoolctl")),
    ]  # fmt: skip


def _missing(package: str) -> str:
    return "" if importlib.util.find_spec(package) else f"{package} is not installed"


def _weights(subject: Subject) -> Network:
    return random_autoencoder(SIZES[subject.name])


def _prepare_iobinding(subject: Subject, rows: np.ndarray) -> Callable[[], np.ndarray]:
    import onnxruntime

    session = onnxruntime_session(subject)
    scores = np.empty(len(rows), np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", onnxruntime.OrtValue.ortvalue_from_numpy(rows))
    binding.bind_ortvalue_output("score", onnxruntime.OrtValue.ortvalue_from_numpy(scores))
    run = functools.partial(session.run_with_iobinding, binding)
    return lambda: (run(), scores)[1]


def _prepare_torch(subject: Subject, rows: np.ndarray, *, compiled: bool = False) -> Callable[[], np.ndarray]:
    import torch  # noqa: TID251

    torch.set_num_threads(1)
    network = _weights(subject)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.from_numpy(network.mean))
            self.register_buffer("scale", torch.from_numpy(network.scale))
            self.layers = torch.nn.ModuleList()
            for weight, bias in zip(network.weights, network.biases, strict=True):
                layer = torch.nn.Linear(*weight.shape)
                layer.weight.data = torch.from_numpy(np.ascontiguousarray(weight.T))
                layer.bias.data = torch.from_numpy(bias)
                self.layers.append(layer)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = (x - self.mean) / self.scale
            h = z
            for index, layer in enumerate(self.layers):
                h = layer(torch.relu(h) if index else h)
            return ((z - h) ** 2).mean(dim=1)

    model = Model().eval()
    if compiled:
        import torch._inductor.config as inductor_config  # noqa: TID251

        inductor_config.freezing = True
        torch.compiler.reset()
        model = torch.compile(model, dynamic=False, fullgraph=True)
    x = torch.from_numpy(rows)

    def call() -> np.ndarray:
        with torch.inference_mode():
            return model(x).numpy()

    return call


def _prepare_numpy(subject: Subject, rows: np.ndarray) -> Callable[[], np.ndarray]:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1, user_api="blas")
    network = _weights(subject)
    z = np.empty_like(rows)
    hidden = [np.empty((len(rows), weight.shape[1]), np.float32) for weight in network.weights]
    layers = list(zip(network.weights, network.biases, hidden, strict=True))

    def call() -> np.ndarray:
        np.subtract(rows, network.mean, out=z)
        np.divide(z, network.scale, out=z)
        h = z
        for weight, bias, out in layers:
            if h is not z:
                np.maximum(h, 0, out=h)
            np.matmul(h, weight, out=out)
            np.add(out, bias, out=out)
            h = out
        np.subtract(z, h, out=h)
        return np.einsum("ij,ij->i", h, h) / np.float32(h.shape[1])

    return call
