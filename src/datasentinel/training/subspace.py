"""The detector for recordings: how far a row is from the subspace that normal rows lie in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import DataError
from datasentinel.training.attribution import attribute
from datasentinel.training.mapping import RobustMap, SoftClip, fit_robust_map, fit_soft_clip
from datasentinel.training.principal import components_for, principal_components
from datasentinel.training.standardise import fit_scaling

if TYPE_CHECKING:
    from datasentinel.artifact import Json
    from datasentinel.training.standardise import Scaling
    from datasentinel.types import Float32Array

# Standard deviations. Wide, unlike the ensemble's: what distinguishes the anomalies of a recording is large.
_KNEE = 10.0
# Residuals are no smaller than this share of the typical one, and than this part of a standard deviation.
_LEAST_SHARE = 0.03
_LEAST_RESIDUAL = 1e-3
# What is far out within the subspace has to be so many times beyond the usual to count as much as what is
# beside it: it may be a busy day. Jackson and Mudholkar, "Control procedures for residuals associated with
# principal component analysis", Technometrics 1979, watch both.
_TIMES_BEYOND = 10.0
# A column that is so many times as far from the mean as it ever was in training counts as much by itself,
# however many others are where they should be.
_TIMES_RANGE = 4.0
_USUAL = 99.0  # Percentile over the held-out rows.
_LEAST_VARYING = 2
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Subspace:
    """score = max(mean of r^2 weight, mean of t^2 / variance, max of e^2), the latter two scaled.

    r are the residuals of u, t its components, and e is what u exceeds its range by.

    The linear autoencoder in closed form. On recordings it is hard to beat: Sarfraz et al., "Position: Quo
    Vadis, Unsupervised Time Series Anomaly Detection?", ICML 2024. The weight is one over the residual's own
    spread, half way between plain squares, which the noisiest feature dominates, and whitened ones, which
    the quietest does. The second term notices what is absurdly far out though in keeping with the others,
    and the third a single column that is, which hardly counts among many components.

    Attributes
    ----------
    soft_clip : SoftClip
        From raw to standardised rows u.
    mean : float32 array, shape [D]
        Of u.
    directions : float32 array, shape [K, D]
        Orthonormal principal directions of u.
    weight : float32 array, shape [D]
        Of the squared residuals.
    variances : float32 array, shape [K]
        Of the components.
    component_share : float
        How much the components count beside the residuals.
    reach : float32 array, shape [D]
        Greatest magnitude of u in the rows trained on.
    far_out : float32 array, shape [D]
        From which magnitude on u is far beyond them.
    range_share : float
        How much a column that is counts beside the residuals.
    typical : float
        Weighted mean square of a typical normal row's residuals, which becomes a score of 1.
    robust_map : RobustMap
        From raw rows to each feature by itself; for the contributions only.
    """

    soft_clip: SoftClip
    mean: Float32Array
    directions: Float32Array
    weight: Float32Array
    variances: Float32Array
    component_share: float
    reach: Float32Array
    far_out: Float32Array
    range_share: float
    typical: float
    robust_map: RobustMap

    definition = (
        "mean over the features of the squared difference between the standardised input and its projection "
        "on the principal components of the normal rows, divided by what it is in a typical normal row; or "
        "how far out the row is along the components, where that is ten times the usual and more, or a "
        "column by itself, where that is four times as far as ever in training and more"
    )
    least_threshold = 1.0

    @property
    def input_dim(self) -> int:
        """Number of features, D."""
        return len(self.mean)

    @property
    def latent_dim(self) -> int:
        """Number of components, K."""
        return len(self.directions)

    @property
    def scaling(self) -> Scaling:
        """The standardisation of raw columns."""
        return self.soft_clip.scaling

    @property
    def residual_gain(self) -> Float32Array:
        """What residuals are multiplied by before they are squared, shape [D]."""
        gain: Float32Array = np.sqrt(self.weight / self.typical).astype(np.float32)
        return gain

    @property
    def component_gain(self) -> Float32Array:
        """What components are multiplied by before they are squared, shape [K]."""
        gain: Float32Array = np.sqrt(self.component_share / self.typical / self.variances).astype(np.float32)
        return gain

    @property
    def range_gain(self) -> Float32Array:
        """What the excess of u is multiplied by before it is squared, shape [D]."""
        one = np.sqrt(self.range_share / self.typical)
        gain: Float32Array = (one / (self.far_out - self.reach)).astype(np.float32)
        return gain

    @property
    def encoder_bias(self) -> Float32Array:
        """What centres the components, shape [K]."""
        bias: Float32Array = -(self.directions @ self.mean)
        return bias

    def evaluate(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return scores [N] and reconstructions [N, D] of raw rows, in the precision of `rows`."""
        scores, outputs = [], []
        for first in range(0, max(1, len(rows)), _CHUNK_ROWS):
            with np.errstate(over="ignore"):
                u = self.soft_clip.apply(rows[first : first + _CHUNK_ROWS])
                components = u @ self.directions.T + self.encoder_bias
                projected = np.asarray(components @ self.directions + self.mean, u.dtype)
                beside = np.square((u - projected) * self.residual_gain).mean(axis=1)
                within = np.square(components * self.component_gain).mean(axis=1)
                excess = ((np.abs(u) - self.reach) * self.range_gain).max(axis=1)
                alone = np.square(np.maximum(excess, 0))
                scores.append(np.maximum(np.maximum(beside, within), alone))
                outputs.append(self.soft_clip.invert(projected))
        return np.concatenate(scores), np.concatenate(outputs)

    def score(self, rows: Float32Array) -> Float32Array:
        """Score raw rows, shape [N, D]."""
        return self.evaluate(rows)[0]

    def contributions(self, rows: Float32Array) -> Float32Array:
        """Return each feature's part in the scores of raw rows, shape [N, D], in the precision of `rows`."""
        with np.errstate(over="ignore"):
            u = self.soft_clip.apply(rows)
            components = u @ self.directions.T + self.encoder_bias
            residual = u - np.asarray(components @ self.directions + self.mean, u.dtype)
            shares = attribute(residual * self.residual_gain, self.robust_map.apply(rows))
            contributions: Float32Array = shares * self.score(rows)[:, np.newaxis]
        return contributions

    def tolerable(self, scores: Float32Array) -> Float32Array:
        """Return what differences of these scores are measured by: the score, or the typical one."""
        typical = max(float(np.median(np.abs(scores))), float(np.finfo(np.float32).tiny))
        return np.maximum(np.abs(scores), np.float32(typical))

    def rounding(self, rows: Float32Array) -> float:
        """Return how far float32 arithmetic is from float64 on these rows, in units of `tolerable`."""
        scores = self.score(rows.astype(np.float64))
        return float((np.abs(self.score(rows) - scores) / self.tolerable(scores)).max())

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `training`."""
        return {"model": "subspace"}

    def summary(self) -> str:
        """Describe the model in a line."""
        return f"{self.latent_dim} principal components of {self.input_dim} features"


def can_span(rows: Float32Array) -> bool:
    """Return whether enough columns vary for a subspace with something beside it."""
    return int(np.count_nonzero(fit_scaling(rows).varying)) >= _LEAST_VARYING


def fit_subspace(rows: Float32Array, held_out: Float32Array) -> Subspace:
    """Find the subspace of normal rows, and what is usual beside and within it.

    It takes as many components as carry 95 % of the variance, but fewer than there are varying columns, or
    nothing would be left to detect anomalies by. Residuals below a thousandth of a standard deviation are
    rounding: what is typical and what is usual is no smaller.

    Parameters
    ----------
    rows, held_out : float32 array, shapes [N, D] and [M, D]
        Finite raw rows: those to learn from, and others to see how far out new rows usually are.

    Raises
    ------
    DataError
        Fewer than two columns vary.
    """
    model = _span(rows)
    beside = model.score(held_out).astype(np.float64)
    least = _LEAST_RESIDUAL**2 * float(model.weight.mean())
    centred = model.soft_clip.apply(held_out).astype(np.float64) - model.mean
    within = (np.square(centred @ model.directions.T) / model.variances).mean(axis=1)
    usual_beside = max(float(np.percentile(beside, _USUAL)), least)
    usual_within = max(float(np.percentile(within, _USUAL)), 1.0)
    return replace(
        model,
        typical=max(float(np.median(beside)), least),
        component_share=usual_beside / usual_within / _TIMES_BEYOND,
        range_share=usual_beside,
    )


def refit(model: Subspace, rows: Float32Array) -> Subspace:
    """Learn a subspace from more rows, held-out ones among them; what is usual stays as `model` found it."""
    return replace(
        _span(rows),
        typical=model.typical,
        component_share=model.component_share,
        range_share=model.range_share,
    )


def _span(rows: Float32Array) -> Subspace:
    """Find the subspace; its score is the plain weighted mean square of the residuals."""
    soft_clip = fit_soft_clip(rows, knee=_KNEE)
    varying = int(np.count_nonzero(soft_clip.scaling.varying))
    if varying < _LEAST_VARYING:
        raise DataError("fewer than two columns vary in the normal rows: they span no subspace")
    u = soft_clip.apply(rows).astype(np.float64)
    mean = u.mean(axis=0)
    variances, directions = principal_components(u - mean)
    count = min(components_for(variances), varying - 1)
    kept = directions[:count]
    residuals = u - mean
    residuals = residuals - residuals @ kept.T @ kept
    spread = np.sqrt(np.square(residuals).mean(axis=0))
    # A constant column has no range of its own.
    furthest = np.maximum(np.abs(soft_clip.scaling.apply(rows)).max(axis=0), 1)
    spread = spread + _LEAST_SHARE * np.sqrt(np.square(spread).mean()) + _LEAST_RESIDUAL
    return Subspace(
        soft_clip=soft_clip,
        mean=mean.astype(np.float32),
        directions=kept.astype(np.float32),
        weight=(1 / spread).astype(np.float32),
        variances=variances[:count].astype(np.float32),
        component_share=0.0,
        reach=soft_clip.clip(furthest),
        far_out=soft_clip.clip(furthest * np.float32(_TIMES_RANGE)),
        range_share=0.0,
        typical=1.0,
        robust_map=fit_robust_map(rows, soft_clip.scaling),
    )
