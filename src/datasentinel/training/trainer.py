"""The optimisation loop."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch  # noqa: TID251
from torch.nn.functional import mse_loss  # noqa: TID251

from datasentinel.training.progress import Epoch
from datasentinel.training.threads import threads_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.training.network import Autoencoder
    from datasentinel.types import Float32Array


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; `default_schedule` fits one to the number of rows."""

    epochs: int
    batch_size: int
    learning_rate: float
    patience: int


def default_schedule(
    rows: int, *, warm: bool, epochs: int | None, batch_size: int | None, learning_rate: float | None
) -> Schedule:
    """Fill in what is None.

    Batches grow with the data, so that an epoch has some seventy steps or more; small data gets more epochs,
    so that there are enough steps. `warm` says that the network starts as a solution (see
    `Autoencoder.start_from_components`) and needs refining only, in small steps.
    """
    if batch_size is None:
        batch_size = min(1024, max(16, 2 ** int(math.log2(max(1, rows / 64)))))
    if epochs is None:
        steps = math.ceil(rows / batch_size)
        epochs = min(400, max(40, math.ceil(2000 / steps)))
    if learning_rate is None:
        learning_rate = 1e-4 if warm else 2e-3
    return Schedule(epochs, batch_size, learning_rate, patience=max(5, epochs // 8))


def fit(
    network: Autoencoder,
    rows: Float32Array,
    held_out: Float32Array,
    *,
    schedule: Schedule,
    device: torch.device,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `network` in place; it ends with the parameters of the least held-out loss, on the CPU.

    Parameters
    ----------
    network : Autoencoder
        Trained in place.
    rows, held_out : float32 array, shape [N, D]
        Standardised rows to learn from, and to stop early by.
    schedule : Schedule
        Epochs, batch size, learning rate and patience.
    device : torch.device
        Where to train; on CUDA with automatic mixed precision.
    seed : int
        Seed of the order of the rows.
    on_epoch : callable, optional
        Called after each epoch.

    Returns
    -------
    list of Epoch
        One a pass made.
    """
    # The tensors are indexed where they lie: for rows of numbers a DataLoader costs more than the network.
    x, x_held_out = torch.from_numpy(rows).to(device), torch.from_numpy(held_out).to(device)
    network.to(device)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=0.0)
    steps = math.ceil(len(rows) / schedule.batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=schedule.epochs * steps)
    mixed = device.type == "cuda"
    dtype = torch.bfloat16 if not mixed or torch.cuda.is_bf16_supported() else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=mixed and dtype is torch.float16)

    history: list[Epoch] = []
    best_loss, best = _loss(network, x_held_out), copy.deepcopy(network.state_dict())
    without_progress = 0
    parameters = sum(parameter.numel() for parameter in network.parameters())
    with threads_for(parameters * schedule.batch_size):
        for number in range(1, schedule.epochs + 1):
            total = torch.zeros((), device=device)
            indices = torch.randperm(len(rows), generator=order).to(device)
            for index in torch.split(indices, schedule.batch_size):
                batch = x[index]
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, dtype=dtype, enabled=mixed):
                    reconstruction = network(batch)
                loss = mse_loss(reconstruction.float(), batch)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                scheduler.step()
                total += loss.detach() * len(index)
            held_out_loss = _loss(network, x_held_out)
            history.append(Epoch(number, schedule.epochs, total.item() / len(rows), held_out_loss))
            if on_epoch:
                on_epoch(history[-1])
            if held_out_loss < best_loss:
                best_loss, best, without_progress = held_out_loss, copy.deepcopy(network.state_dict()), 0
            else:
                without_progress += 1
                if without_progress >= schedule.patience:
                    break
    network.load_state_dict(best)
    network.to("cpu")
    return history


@torch.no_grad()
def _loss(network: Autoencoder, rows: torch.Tensor) -> float:
    total = 0.0
    for batch in torch.split(rows, 8192):
        total += mse_loss(network(batch), batch, reduction="sum").item()
    return total / rows.numel()
