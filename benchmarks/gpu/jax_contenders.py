"""The same network in JAX, by `jit`."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu.cases import Call, Contender, NotRun, Setting

if TYPE_CHECKING:
    from collections.abc import Callable

# What JAX calls the precisions of matrix products. On a GPU its default is TF32.
_MATMUL = {"float32": "highest", "tf32": "tensorfloat32"}


def jax_contenders() -> list[Contender]:
    return [
        Contender("jax.jit", ("host", "device"), functools.partial(_prepare, "float32")),
        Contender("jax.jit", ("device",), functools.partial(_prepare, "tf32"), "tf32", True),
    ]


def _import_jax(device: str) -> tuple[Any, Any]:
    if not importlib.util.find_spec("jax"):
        raise NotRun("jax is not installed")
    import jax

    try:
        return jax, jax.devices("gpu" if device == "cuda" else device)[0]
    except RuntimeError as error:
        raise NotRun(f"jax {jax.__version__} has no {device} here: {error}") from error


def _make_score(jax: Any, setting: Setting, place: Any, precision: str) -> Callable[[Any], Any]:
    network = setting.network
    mean, scale = jax.device_put((network.mean, network.scale), place)
    layers = jax.device_put(list(zip(network.weights, network.biases, strict=True)), place)

    def score(x: Any) -> Any:
        z = (x - mean) / scale
        h = z
        for index, (weight, bias) in enumerate(layers):
            h = jax.numpy.dot(jax.numpy.maximum(h, 0) if index else h, weight) + bias
        return ((z - h) ** 2).mean(axis=1)

    def precise(x: Any) -> Any:
        with jax.default_matmul_precision(_MATMUL[precision]):
            return score(x)

    return jax.jit(precise)


def _prepare(precision: str, setting: Setting) -> Call:
    jax, place = _import_jax(setting.device)
    score = _make_score(jax, setting, place, precision)
    held: list[Any] = [None, None]
    if setting.place == "device":

        def put(values: np.ndarray) -> None:
            # A copy, since on the CPU the array could share the caller's memory.
            held[0] = jax.block_until_ready(jax.device_put(values.copy(), place))

        def on_device() -> None:
            held[1] = score(held[0]).block_until_ready()

        return Call(put, on_device, lambda: np.asarray(held[1]))

    def hold(values: np.ndarray) -> None:
        held[0] = values

    def both_ways() -> None:
        held[1] = np.asarray(score(jax.device_put(held[0], place)))

    return Call(hold, both_ways, lambda: held[1])
