"""The denoising autoencoder: rebuilds rows from noisy copies of themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID251

from datasentinel.training.progress import Epoch
from datasentinel.training.threads import threads_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasentinel.types import Float32Array

HIDDEN = 128
STEPS = 600
BATCH = 128
LEARNING_RATE = 1e-2
# Standard deviations of the noise, drawn per row from between these, uniformly in the logarithm.
NOISE = (0.05, 0.8)
# How often progress is reported.
_REPORTS = 10


@dataclass(frozen=True)
class Denoiser:
    """y = tanh(tanh(u W1 + b1) W2 + b2) W3 + b3; weights [in, out] and biases [out] in float32."""

    weights: tuple[Float32Array, ...]
    biases: tuple[Float32Array, ...]

    def reconstruct(self, rows: Float32Array) -> Float32Array:
        """Rebuild rows, shape [N, D]."""
        x = rows
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            x = x @ weight + bias
            if i < len(self.weights):
                x = np.tanh(x)
        return x


def batch_size(rows: int) -> int:
    """Return how many rows a step of training sees."""
    return min(BATCH, max(16, rows // 4))


def fit_denoisers(
    sets: Sequence[Float32Array],
    *,
    held_out: Float32Array,
    seed: int,
    steps: int = STEPS,
    on_epoch: Callable[[Epoch], None] | None = None,
    start: Denoiser | None = None,
) -> tuple[list[Denoiser], list[Epoch]]:
    """Train one network on each of several sets of rows, side by side.

    The noise makes a bottleneck unnecessary: what is not normal variation cannot be told from noise, and is
    not rebuilt (Vincent et al., "Extracting and composing robust features with denoising autoencoders",
    2008). Networks do not see each other; training them together only saves time.

    Parameters
    ----------
    sets : sequence of float32 array, shapes [N_i, D]
        Rows for each network.
    held_out : float32 array, shape [M, D]
        Rows that the first set lacks, to watch the first network by.
    seed : int
        Of the starting weights, the batches and the noise.
    steps : int
        How many to take.
    on_epoch : callable, optional
        Called with the progress ten times, or at every step if there are fewer.
    start : Denoiser, optional
        Weights to start from instead of random ones.
    """
    random = torch.Generator().manual_seed(seed)
    points = [torch.from_numpy(rows) for rows in sets]
    count, width = len(points), points[0].shape[1]
    batch = batch_size(min(map(len, points)))
    parameters = _start(count, width, random, start)
    watched = torch.from_numpy(held_out)
    watched_noisy = watched + _noise(watched.shape, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    history: list[Epoch] = []
    total, reports = 0.0, min(_REPORTS, steps)
    interval = steps // reports
    with threads_for(count * batch * sum(p[0].numel() for p in parameters)):
        for step in range(1, steps + 1):
            clean = torch.stack([p[torch.randint(len(p), (batch,), generator=random)] for p in points])
            error = _forward(parameters, clean + _noise(clean.shape, random)) - clean
            losses = error.square().mean(dim=(1, 2))
            optimizer.zero_grad()
            losses.sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(losses.detach()[0])
            if step % interval == 0 and len(history) < reports:
                with torch.no_grad():
                    first = [p[:1] for p in parameters]
                    held_out_error = _forward(first, watched_noisy[None])[0] - watched
                loss, total = total / interval, 0.0
                history.append(Epoch(len(history) + 1, reports, loss, float(held_out_error.square().mean())))
                if on_epoch:
                    on_epoch(history[-1])
    arrays = [p.detach().numpy() for p in parameters]
    denoisers = [
        Denoiser(tuple(w[i].copy() for w in arrays[::2]), tuple(b[i, 0].copy() for b in arrays[1::2]))
        for i in range(count)
    ]
    return denoisers, history


def _start(count: int, width: int, random: torch.Generator, start: Denoiser | None) -> list[torch.Tensor]:
    """Weights and biases by turns, each with one entry a network in front."""
    widths = (width, HIDDEN, HIDDEN, width)
    parameters = []
    for i in range(len(widths) - 1):
        bound = 1 / math.sqrt(widths[i])
        weight = (torch.rand((count, widths[i], widths[i + 1]), generator=random) * 2 - 1) * bound
        bias = (torch.rand((count, 1, widths[i + 1]), generator=random) * 2 - 1) * bound
        if start is not None:
            weight[:], bias[:] = torch.from_numpy(start.weights[i]), torch.from_numpy(start.biases[i])
        parameters += [weight.requires_grad_(), bias.requires_grad_()]
    return parameters


def _forward(parameters: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    w1, b1, w2, b2, w3, b3 = parameters
    hidden = torch.tanh(torch.baddbmm(b1, x, w1))
    hidden = torch.tanh(torch.baddbmm(b2, hidden, w2))
    return torch.baddbmm(b3, hidden, w3)


def _noise(shape: torch.Size, random: torch.Generator) -> torch.Tensor:
    least, greatest = map(math.log, NOISE)
    level = torch.empty((*shape[:-1], 1)).uniform_(least, greatest, generator=random).exp()
    return level * torch.randn(shape, generator=random)
