"""Models to measure: autoencoders with random weights, which cost as much as trained ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from datasentinel import Detector
from datasentinel.artifact import Config, save_artifact

if TYPE_CHECKING:
    from pathlib import Path

SMALL = (8, 6, 3, 6, 8)


def random_rows(count: int, dim: int, *, seed: int) -> np.ndarray:
    """Standard normal float32 rows."""
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def write_autoencoder(directory: Path, widths: tuple[int, ...], *, seed: int = 0) -> Path:
    """Write an artifact whose threshold calls half of `random_rows` abnormal."""
    onnx = _autoencoder(widths, np.random.default_rng(seed))
    config = Config(input_dim=widths[0], output_dim=widths[-1], latent_dim=min(widths), threshold=0.0)
    save_artifact(directory, onnx, config)
    scores = Detector.load(directory).score(random_rows(1000, widths[0], seed=seed + 1))
    config = Config(
        input_dim=widths[0],
        output_dim=widths[-1],
        latent_dim=min(widths),
        threshold=float(np.median(scores)),
        name="-".join(map(str, widths)),
    )
    return save_artifact(directory, onnx, config)


def _autoencoder(widths: tuple[int, ...], rng: np.random.Generator) -> bytes:
    """Standardise, dense layers with ReLU between them, score in standardised and output in raw units."""
    dim = widths[0]
    constants = {
        "mean": rng.normal(0, 0.1, dim),
        "scale": rng.uniform(0.9, 1.1, dim),
        "axes": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Sub", ["input", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["z"]),
    ]
    h = "z"
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        if index:
            nodes.append(helper.make_node("Relu", [h], [f"relu{index}"]))
            h = f"relu{index}"
        constants[f"weight{index}"] = rng.normal(0, inputs**-0.5, (inputs, outputs))
        constants[f"bias{index}"] = rng.normal(0, 0.1, outputs)
        nodes.append(helper.make_node("Gemm", [h, f"weight{index}", f"bias{index}"], [f"dense{index}"]))
        h = f"dense{index}"
    nodes += [
        helper.make_node("Sub", ["z", h], ["residual"]),
        helper.make_node("Mul", ["residual", "residual"], ["squared"]),
        helper.make_node("ReduceMean", ["squared", "axes"], ["score"], keepdims=0),
        helper.make_node("Mul", [h, "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mean"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "autoencoder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", dim])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", dim]),
        ],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model.SerializeToString()
