"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, TypeAlias, get_args

from datasentinel.calibration import THRESHOLD_METHODS, ThresholdMethod
from datasentinel.errors import SettingsError
from datasentinel.training.season import SEASONS, SeasonKind

ModelKind: TypeAlias = Literal["auto", "ensemble", "subspace", "context", "autoencoder"]
Activation: TypeAlias = Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid", "identity"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
MissingValues: TypeAlias = Literal["error", "carry"]

MODELS: tuple[ModelKind, ...] = get_args(ModelKind)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
# Rows: below, an average is hardly more than the row itself; beyond, float32 barely moves it.
_SHORTEST_HALF_LIFE, _LONGEST_HALF_LIFE = 1.0, 100_000.0
DEVICES: tuple[Device, ...] = get_args(Device)
MISSING: tuple[MissingValues, ...] = get_args(MissingValues)
_COUNTS = ("latent", "epochs", "batch_size", "steps", "prototypes")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training run; None leaves the choice to the data.

    Attributes
    ----------
    model : str
        "ensemble"; "subspace", principal components in closed form; "context", subspaces of rows beside their
        recent averages and variability, for a recording; "autoencoder", a plain one; or "auto",
        a subspace for a recording (rows that resemble their neighbours), else an ensemble. The architecture
        and the schedule
        (`hidden` to `learning_rate`, and `device`) can be chosen for the latter only.
    hidden : tuple of int, optional
        Widths of the encoder's hidden layers; the decoder mirrors them.
    latent : int, optional
        Width of the bottleneck.
    activation : str, optional
        Activation of the hidden layers, "relu" by default; the bottleneck and the output are linear.
    epochs : int, optional
        Greatest number of passes over the data; early stopping may end sooner.
    batch_size : int, optional
        Rows a step.
    learning_rate : float, optional
        Greatest learning rate; it falls to zero along a cosine.
    steps : int, optional
        Training steps of the ensemble's denoising autoencoder, 600 by default.
    prototypes : int, optional
        How many prototypes the ensemble has at most in each of its three spaces: the more, the slower it
        scores. By default chosen by the number of columns; see `prototypes.prototype_count`.
    held_out : float, optional
        Share of the normal rows that is kept aside, for early stopping and the threshold: the last ones of a
        recording, but random ones otherwise and for an autoencoder. None stands for a fifth of an
        autoencoder's rows, and a quarter otherwise; for an ensemble, unless it is of a recording, 1,000 at
        most (all, by turns, where there are fewer than 400). Ensembles and subspaces are trained on all rows
        in the end.
    threshold_method : str
        "conformal" or "quantile" for a target false-positive rate, with and without a guarantee for finitely
        many rows, or "mean+3std"; see `datasentinel.calibration.calibrate`.
    half_lives : tuple of float, optional
        In rows, of what a detector with memory remembers; chosen by the recording without them.
    missing : str
        What a missing value, NaN, is: an "error", or for a detector with memory one to "carry" from the row
        before, in training as in use.
    season : str, optional
        Takes the season out of the rows, whatever the model: what they usually are at a time of the "day", of
        the "week", or of either ("auto"). The last column is then the second of the week, see
        `datasentinel.calendar_time`, and stays one of the model's columns.
    target_fpr : float
        Share of normal rows that may be called anomalies, for "conformal" and "quantile".
    device : str
        "cpu", "cuda", or "auto": CUDA where there is a device.
    seed : int
        Seed of everything random.
    """

    model: ModelKind = "auto"
    hidden: tuple[int, ...] | None = None
    latent: int | None = None
    activation: Activation | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    steps: int | None = None
    prototypes: int | None = None
    held_out: float | None = None
    threshold_method: ThresholdMethod = "conformal"
    half_lives: tuple[float, ...] = ()
    missing: MissingValues = "error"
    season: SeasonKind | None = None
    target_fpr: float = 0.01
    device: Device = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense; raises SettingsError."""
        self._check_numbers()
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} must be at least 1, got {value}")
        if self.hidden is not None and any(width < 1 for width in self.hidden):
            raise SettingsError(f"hidden widths must be at least 1, got {self.hidden}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise SettingsError(f"learning_rate must be greater than 0, got {self.learning_rate}")
        for name in ("held_out", "target_fpr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise SettingsError(f"{name} must be between 0 and 1, got {value}")
        if self.seed < 0:
            raise SettingsError(f"seed must not be negative, got {self.seed}")
        self._check_half_lives()
        self._check_names()
        if self.model != "autoencoder":
            self._check_not_plain()
        if self.model not in ("auto", "ensemble"):
            for name in ("steps", "prototypes"):
                if getattr(self, name) is not None:
                    raise SettingsError(f"{name} can be chosen for the model 'ensemble' only")

    @property
    def may_have_memory(self) -> bool:
        """Whether "auto" may choose a detector with memory: nothing is asked that only another one has."""
        return self.model == "auto" and self.steps is None and self.prototypes is None

    def _check_numbers(self) -> None:
        for name in (*_COUNTS, "learning_rate", "held_out", "target_fpr", "seed"):
            value = getattr(self, name)
            if value is None and name not in ("target_fpr", "seed"):
                continue
            is_flag = isinstance(value, bool)
            if not isinstance(value, Real):
                raise SettingsError(f"{name} must be a number, got {value!r}")
            if name in (*_COUNTS, "seed"):
                if is_flag or not isinstance(value, Integral):
                    raise SettingsError(f"{name} must be a whole number, got {value!r}")
                # torch takes no others, such as NumPy's.
                object.__setattr__(self, name, int(value))

    def _check_half_lives(self) -> None:
        if self.half_lives and self.model != "context":
            raise SettingsError("half-lives can be chosen for the model 'context' only")
        if self.missing == "carry" and self.model != "context":
            raise SettingsError("missing values can be carried by the model 'context' only")
        if len(set(self.half_lives)) < len(self.half_lives) or not all(
            _SHORTEST_HALF_LIFE <= half_life <= _LONGEST_HALF_LIFE for half_life in self.half_lives
        ):
            raise SettingsError(
                f"half-lives must differ and be between {_SHORTEST_HALF_LIFE:g} and {_LONGEST_HALF_LIFE:g} "
                f"rows, got {', '.join(f'{half_life:g}' for half_life in self.half_lives)}"
            )

    def _check_names(self) -> None:
        choices: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("model", MODELS),
            ("activation", ACTIVATIONS),
            ("device", DEVICES),
            ("threshold_method", THRESHOLD_METHODS),
            ("missing", MISSING),
            ("season", SEASONS),
        )
        for name, known in choices:
            value = getattr(self, name)
            if value not in known and not (name in ("activation", "season") and value is None):
                raise SettingsError(f"unknown {name} '{value}'; known are {', '.join(known)}")

    def _check_not_plain(self) -> None:
        for name in ("hidden", "latent", "activation", "epochs", "batch_size", "learning_rate"):
            if getattr(self, name) is not None:
                raise SettingsError(f"{name} can be chosen for the model 'autoencoder' only")
        if self.device == "cuda":
            raise SettingsError("device 'cuda': only the model 'autoencoder' can be trained there")
