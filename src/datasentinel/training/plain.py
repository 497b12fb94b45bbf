"""The plain autoencoder: its score is the mean squared residual of the standardised row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch  # noqa: TID251

from datasentinel.errors import DataError, SettingsError
from datasentinel.training.network import Autoencoder, ScoringModule
from datasentinel.training.principal import components_for, principal_components
from datasentinel.training.standardise import Scaling, fit_scaling
from datasentinel.training.trainer import Schedule, default_schedule, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasentinel.artifact import Json
    from datasentinel.training.progress import Epoch
    from datasentinel.training.settings import TrainingSettings
    from datasentinel.types import Float32Array, Float64Array

HELD_OUT = 0.2


@dataclass(frozen=True)
class PlainAutoencoder:
    """A trained network with its scaling.

    Attributes
    ----------
    network : Autoencoder
        Standardised rows in, reconstructions out.
    scaling : Scaling
        From raw to standardised rows.
    schedule : Schedule
        What was trained, at most.
    epochs : int
        What was trained, in fact.
    device : str
        Where.
    """

    network: Autoencoder
    scaling: Scaling
    schedule: Schedule
    epochs: int
    device: str

    definition = (
        "mean over the features of the squared difference between the standardised input and its "
        "reconstruction"
    )
    least_threshold = None

    @property
    def input_dim(self) -> int:
        """Number of features, D."""
        return self.network.input_dim

    @property
    def latent_dim(self) -> int:
        """Width of the bottleneck."""
        return self.network.latent

    def evaluate(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return scores [N] and reconstructions [N, D] of raw rows."""
        with torch.no_grad():
            scores, outputs = ScoringModule(self.network, self.scaling)(torch.from_numpy(rows))
        return scores.numpy(), outputs.numpy()

    def score(self, rows: Float32Array) -> Float32Array:
        """Score raw rows, shape [N, D]."""
        return ScoringModule(self.network, self.scaling).score(rows)

    def contributions(self, rows: Float32Array) -> Float32Array:
        """Return each feature's term of the scores of raw rows, shape [N, D]."""
        # The network computes in float32, whatever the precision of the rows.
        standardised = torch.from_numpy(self.scaling.apply(rows.astype(np.float32)))
        with torch.no_grad():
            terms = (standardised - self.network(standardised)).square() / self.input_dim
        contributions: Float32Array = terms.numpy()
        return contributions

    def tolerable(self, scores: Float32Array) -> Float32Array:
        """Return what differences of these scores are measured by.

        A row that is reconstructed almost perfectly has a score made of rounding alone: relate to the
        typical score as well as to its own.
        """
        typical = max(float(np.median(np.abs(scores))), float(np.finfo(np.float32).tiny))
        return np.maximum(np.abs(scores), np.float32(typical))

    def rounding(self, rows: Float32Array) -> float:  # noqa: ARG002 - as for the ensemble
        """Return what to allow for rounding, in units of `tolerable`, beyond what is always allowed."""
        return 0.0

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `training`."""
        return {
            "model": "autoencoder",
            "epochs": self.epochs,
            "hidden": list(self.network.hidden),
            "activations": list(self.network.activations),
            "batch_size": self.schedule.batch_size,
            "learning_rate": self.schedule.learning_rate,
            "device": self.device,
        }

    def summary(self) -> str:
        """Describe the model in a line."""
        return f"{'-'.join(map(str, self.network.widths))}, {self.epochs} epochs on {self.device}"


def fit_plain(
    fit_rows: Float32Array,
    held_out_rows: Float32Array,
    *,
    settings: TrainingSettings,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[PlainAutoencoder, list[Epoch]]:
    """Train a plain autoencoder.

    Parameters
    ----------
    fit_rows, held_out_rows : float32 array, shapes [N, D] and [M, D]
        Raw rows to train on, and those that early stopping watches.
    settings : TrainingSettings
        Architecture, schedule, device and seed.
    on_epoch : callable, optional
        Called after each epoch.

    Raises
    ------
    DataError
        Fewer than two columns vary.
    """
    device = _device(settings)
    scaling = fit_scaling(fit_rows)
    if np.count_nonzero(scaling.varying) < 2:
        raise DataError(
            "fewer than two columns vary in the normal rows: there is nothing to reconstruct them from"
        )
    standardised = scaling.apply(fit_rows)
    variances, directions = principal_components(standardised)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = _network(settings, scaling, variances)
    warm = network.can_start_from_components()
    if warm:
        network.start_from_components(directions)
    schedule = default_schedule(
        len(fit_rows),
        warm=warm,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
    )
    history = fit(
        network,
        standardised,
        scaling.apply(held_out_rows),
        schedule=schedule,
        device=device,
        seed=settings.seed,
        on_epoch=on_epoch,
    )
    return PlainAutoencoder(network, scaling, schedule, len(history), str(device)), history


def _network(settings: TrainingSettings, scaling: Scaling, variances: Float64Array) -> Autoencoder:
    """Choose the architecture: what the settings say, and the rest by the data.

    The bottleneck takes as many components as carry most of the variance, but fewer than there are varying
    columns, or nothing would be left to detect anomalies by. One hidden layer on each side is wide enough to
    hold the linear solution and as wide as a row.
    """
    input_dim = len(variances)
    latent = settings.latent
    if latent is None:
        latent = min(components_for(variances), int(np.count_nonzero(scaling.varying)) - 1)
        if settings.hidden:
            latent = min(latent, *settings.hidden)
    elif latent > input_dim:
        raise SettingsError(f"latent {latent} is wider than a row of {input_dim} values")
    hidden = (max(2 * latent, input_dim),) if settings.hidden is None else settings.hidden
    return Autoencoder(input_dim, hidden, latent, settings.activation or "relu")


def _device(settings: TrainingSettings) -> torch.device:
    if settings.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if settings.device == "cuda":
        raise SettingsError("device 'cuda': torch finds no CUDA device; use 'cpu' or 'auto'")
    return torch.device("cpu")
