"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from datasentinel.calibration import THRESHOLD_METHODS, ThresholdMethod
from datasentinel.errors import SettingsError

Activation: TypeAlias = Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid", "identity"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
DEVICES: tuple[Device, ...] = get_args(Device)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a training run is told; None leaves the choice to the data.

    Attributes
    ----------
    hidden : tuple of int, optional
        Widths of the encoder's hidden layers; the decoder mirrors them.
    latent : int, optional
        Width of the bottleneck.
    activation : str
        Activation of the hidden layers; the bottleneck and the output are linear.
    epochs : int, optional
        Greatest number of passes over the data; early stopping may end sooner.
    batch_size : int, optional
        Rows a step.
    learning_rate : float, optional
        Greatest learning rate; it falls to zero along a cosine.
    held_out : float
        Share of the normal rows that is kept from training, for early stopping and the threshold.
    threshold_method : str
        "conformal" or "quantile" for a target false-positive rate, with and without a guarantee for finitely
        many rows, or "mean+3std"; see `datasentinel.calibration.calibrate`.
    target_fpr : float
        Share of normal rows that may be called anomalies, for "conformal" and "quantile".
    device : str
        "cpu", "cuda", or "auto": CUDA where there is a device.
    seed : int
        Seed of everything random.
    """

    hidden: tuple[int, ...] | None = None
    latent: int | None = None
    activation: Activation = "relu"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    held_out: float = 0.2
    threshold_method: ThresholdMethod = "conformal"
    target_fpr: float = 0.01
    device: Device = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense; raises SettingsError."""
        for name in ("latent", "epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, got {value}")
        if self.hidden is not None and any(width < 1 for width in self.hidden):
            raise SettingsError(f"hidden widths must be at least 1, got {self.hidden}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise SettingsError(f"learning_rate must be greater than 0, got {self.learning_rate}")
        for name in ("held_out", "target_fpr"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise SettingsError(f"{name} must be between 0 and 1, got {value}")
        if self.seed < 0:
            raise SettingsError(f"seed must not be negative, got {self.seed}")
        for name, known in (
            ("activation", ACTIVATIONS),
            ("device", DEVICES),
            ("threshold_method", THRESHOLD_METHODS),
        ):
            if getattr(self, name) not in known:
                raise SettingsError(f"unknown {name} '{getattr(self, name)}'; known are {', '.join(known)}")
