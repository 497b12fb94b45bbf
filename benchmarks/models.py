"""Models to measure: autoencoders with random weights, which cost as much as trained ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from datasentinel import Detector
from datasentinel.artifact import Config, load_artifact, save_artifact
from datasentinel.bench.subject import Subject, float64_reference
from tests.networks import Network

if TYPE_CHECKING:
    from pathlib import Path

SMALL = (8, 6, 3, 6, 8)
MEDIUM = (64, 128, 64, 16, 64, 128, 64)
LARGE = (512, 512, 256, 64, 256, 512, 512)
SIZES = {"small": SMALL, "medium": MEDIUM, "large": LARGE}


def random_autoencoder(widths: tuple[int, ...], seed: int = 0) -> Network:
    """Draw an autoencoder for rows that are about standard normal."""
    rng = np.random.default_rng(seed)
    layers = list(itertools.pairwise(widths))

    def float32(values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)

    return Network(
        mean=float32(rng.normal(0, 0.1, widths[0])),
        scale=float32(rng.uniform(0.9, 1.1, widths[0])),
        weights=[float32(rng.normal(0, shape[0] ** -0.5, shape)) for shape in layers],
        biases=[float32(rng.normal(0, 0.1, outputs)) for _, outputs in layers],
    )


def random_rows(count: int, dim: int, *, seed: int) -> np.ndarray:
    """Standard normal float32 rows."""
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def write_autoencoder(directory: Path, widths: tuple[int, ...], *, seed: int = 0, name: str = "") -> Path:
    """Write an artifact whose threshold calls half of `random_rows` abnormal."""
    onnx = random_autoencoder(widths, seed).to_onnx()
    dims = {"input_dim": widths[0], "output_dim": widths[-1], "latent_dim": min(widths)}
    save_artifact(directory, onnx, Config(**dims, threshold=0.0))
    detector = Detector.load(directory, plan_budget_s=0)
    threshold = float(np.median(detector.score(random_rows(1000, widths[0], seed=seed + 1))))
    name = name or "-".join(map(str, widths))
    return save_artifact(directory, onnx, Config(**dims, threshold=threshold, name=name))


def write_default(directory: Path, columns: int, *, name: str = "") -> Path:
    """Write what `datasentinel train` makes of rows of so many columns, which costs as much for any rows."""
    from datasentinel.export import build_artifact  # The trained models need torch.
    from datasentinel.training import TrainingSettings, train

    random = np.random.default_rng(0)
    causes = random.normal(size=(3000, columns // 4))
    noise = random.normal(size=(3000, columns))
    rows = (causes @ random.normal(size=(columns // 4, columns)) + noise).astype(np.float32)
    result = train(rows, settings=TrainingSettings(model="ensemble", steps=20))
    built = build_artifact(result, rows=rows, name=name)
    return save_artifact(directory, built.onnx, built.config)


def subject(size: str, folder: Path) -> Subject:
    """One of `SIZES`, written below `folder`."""
    artifact = load_artifact(write_autoencoder(folder / size, SIZES[size], name=size))
    multiply_adds = sum(weight.size for weight in random_autoencoder(SIZES[size]).weights)
    return Subject(size, artifact, multiply_adds, float64_reference(artifact.onnx))
