"""Small autoencoders made by hand: an ONNX graph, and what it must answer in float64."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Network:
    """A ReLU autoencoder on standardised inputs: score = mean squared standardised residual."""

    mean: np.ndarray
    scale: np.ndarray
    weights: list[np.ndarray]
    biases: list[np.ndarray]

    @classmethod
    def random(cls, dims: list[int], seed: int = 0) -> Network:
        rng = np.random.default_rng(seed)
        layers = list(itertools.pairwise(dims))
        return cls(
            mean=rng.normal(0, 2, dims[0]).astype(np.float32),
            scale=rng.uniform(0.5, 2, dims[0]).astype(np.float32),
            weights=[(rng.normal(0, 1, shape) / np.sqrt(shape[0])).astype(np.float32) for shape in layers],
            biases=[rng.normal(0, 0.1, shape[1]).astype(np.float32) for shape in layers],
        )

    @property
    def input_dim(self) -> int:
        return len(self.mean)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores [N] and reconstructions [N, D] of float32 rows, computed in float64."""
        mean, scale = self.mean.astype(np.float64), self.scale.astype(np.float64)
        z = (np.asarray(x, dtype=np.float32).astype(np.float64) - mean) / scale
        h = z
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = h @ weight.astype(np.float64) + bias.astype(np.float64)
            if index + 1 < len(self.weights):
                h = np.maximum(h, 0)
        return ((z - h) ** 2).mean(axis=1), h * scale + mean

    def reference_contributions(self, x: np.ndarray) -> np.ndarray:
        """Each feature's term [N, D] of the scores of float32 rows, computed in float64."""
        residual = np.asarray(x, dtype=np.float32).astype(np.float64) - self.reference(x)[1]
        return (residual / self.scale.astype(np.float64)) ** 2 / self.input_dim

    def to_onnx(
        self,
        *,
        batch: int | str = "batch",
        with_score: bool = True,
        with_output: bool = True,
        with_contributions: bool = False,
    ) -> bytes:
        constants = {"mean": self.mean, "scale": self.scale}
        nodes = [
            helper.make_node("Sub", ["input", "mean"], ["centred"], name="centre"),
            helper.make_node("Div", ["centred", "scale"], ["z"], name="standardise"),
        ]
        h = "z"
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            constants |= {f"w{index}": weight, f"b{index}": bias}
            nodes.append(
                helper.make_node("Gemm", [h, f"w{index}", f"b{index}"], [f"h{index}"], name=f"dense{index}")
            )
            h = f"h{index}"
            if index + 1 < len(self.weights):
                nodes.append(helper.make_node("Relu", [h], [f"a{index}"], name=f"relu{index}"))
                h = f"a{index}"
        outputs = []
        if with_score:
            constants["axes"] = np.array([1], dtype=np.int64)
            nodes += [
                helper.make_node("Sub", ["z", h], ["residual"], name="residual"),
                helper.make_node("Mul", ["residual", "residual"], ["squared"], name="square"),
                helper.make_node("ReduceMean", ["squared", "axes"], ["score"], name="score", keepdims=0),
            ]
            outputs.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, [batch]))
        if with_contributions:
            constants["width"] = np.array(self.input_dim, dtype=np.float32)
            nodes.append(
                helper.make_node("Div", ["squared", "width"], ["contributions"], name="contributions")
            )
            outputs.append(
                helper.make_tensor_value_info("contributions", TensorProto.FLOAT, [batch, self.input_dim])
            )
        if with_output:
            nodes += [
                helper.make_node("Mul", [h, "scale"], ["scaled"], name="unscale"),
                helper.make_node("Add", ["scaled", "mean"], ["output"], name="uncentre"),
            ]
            outputs.append(
                helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, self.input_dim])
            )
        graph = helper.make_graph(
            nodes,
            "autoencoder",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, self.input_dim])],
            outputs,
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 10
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def write_artifact(
    directory: Path, onnx_bytes: bytes, *, input_dim: int, threshold: float, **extra: object
) -> Path:
    """Write model.onnx and config.json; `extra` adds or overrides keys of the config."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(onnx_bytes)
    config = {
        "input_dim": input_dim,
        "output_dim": input_dim,
        "latent_dim": 3,
        "threshold": threshold,
        "format_version": 1,
        "name": "test",
        "version": "1",
        "feature_names": [f"f{index}" for index in range(input_dim)],
        "model_sha256": hashlib.sha256(onnx_bytes).hexdigest(),
    } | extra
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def write_prototype(directory: Path, onnx_bytes: bytes, *, input_dim: int, threshold: float) -> Path:
    """Write an artifact as the prototype did: four keys, nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(onnx_bytes)
    config = {"input_dim": input_dim, "output_dim": input_dim, "latent_dim": 3, "threshold": threshold}
    (directory / "config.json").write_text(json.dumps(config))
    return directory
