"""The detector with memory: a row beside its recent averages and the recent variability of its columns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from datasentinel.training.attribution import SMALLEST_SQUARE
from datasentinel.training.mapping import SoftClip, fit_soft_clip
from datasentinel.training.memory import Memory, exponential_average, remember
from datasentinel.training.principal import components_for, principal_components
from datasentinel.training.recording import Order
from datasentinel.training.stability import Spread, spread_of, steadiest
from datasentinel.training.subspace import Subspace, can_span, fit_subspace, refit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datasentinel.artifact import Json
    from datasentinel.training.memory import Remembered
    from datasentinel.training.standardise import Scaling
    from datasentinel.types import BoolArray, Float32Array, Float64Array, FloatArray

# Half-lives in rows of the two views with memory: what lasts, and what passes.
LONG_CONTEXT = (8.0, 32.0)
SHORT_CONTEXT = (4.0, 16.0)
_CONTEXTS = {"long": LONG_CONTEXT, "short": SHORT_CONTEXT}
_ROWS, _GIVEN = "rows", "given"
# Standard deviations; as wide as for the subspace of rows.
_KNEE = 10.0
# Squared deviations. Columns that are almost always still would otherwise find every move unheard of.
_LEAST_USUAL = 1e-3
# Variability is no more than so many times the usual, as a deviation.
MOST_VARIABILITY = 5.0
# A feature that varies less than this has no unit of its own.
_LEAST_DEVIATION = 1e-6
# As in `subspace`.
_TIMES_BEYOND = 10.0
_USUAL = 99.0


@dataclass(frozen=True)
class ContextView:
    """How far the features of a row in its context are from the subspace that those of normal rows lie in.

    The features, for a standardised row u, averages m and variabilities r of each half-life, are u, then
    all u - m, then all sqrt(r) clipped at 5, standardised once more. The score is the mean squared residual
    beside the subspace, or what is far out within it; see `Subspace`.

    Attributes
    ----------
    half_lives : tuple of float
        In rows.
    center, inverse_scale : float32 array, shape [F]
        Of the features; F = D (1 + 2 number of half-lives).
    directions : float32 array, shape [K, F]
        Orthonormal.
    variances : float32 array, shape [K]
        Of the components.
    component_share : float
        How much the components count beside the residuals.
    """

    half_lives: tuple[float, ...]
    center: Float32Array
    inverse_scale: Float32Array
    directions: Float32Array
    variances: Float32Array
    component_share: float

    @property
    def component_gain(self) -> Float32Array:
        """What components are multiplied by before they are squared, shape [K]."""
        gain: Float32Array = np.sqrt(self.component_share / self.variances).astype(np.float32)
        return gain

    def features(self, u: FloatArray, remembered: Remembered) -> FloatArray:
        """Return the standardised features [N, F] of standardised rows [N, D]."""
        features: FloatArray = raw_features(self.half_lives, u, remembered)
        return (features - self.center) * self.inverse_scale

    def residual(self, features: FloatArray) -> FloatArray:
        """Return what lies beside the subspace, shape [N, F]."""
        projected: FloatArray = features @ self.directions.T @ self.directions
        return features - projected

    def score(self, features: FloatArray) -> FloatArray:
        """Score standardised features, shape [N, F]."""
        beside = np.square(self.residual(features)).mean(axis=1)
        within = np.square(features @ self.directions.T * self.component_gain).mean(axis=1)
        scores: FloatArray = np.maximum(beside, within)
        return scores

    def shares(self, features: FloatArray) -> FloatArray:
        """Return each column's share in the squared residual, shape [N, D]."""
        squares = np.square(self.residual(features)).reshape(len(features), 1 + 2 * len(self.half_lives), -1)
        by_column = squares.sum(axis=1) + SMALLEST_SQUARE
        shares: FloatArray = by_column / by_column.sum(axis=1, keepdims=True)
        return shares


@dataclass(frozen=True)
class ContextModel:
    """score = geometric mean of what the views find, each in units of what it usually finds.

    Attributes
    ----------
    soft_clip : SoftClip
        From raw to standardised rows u.
    usual_square : float32 array, shape [D]
        The usual squared difference of u from its long average.
    memory : Memory
        What is remembered of a stream.
    views : tuple of ContextView
    view_spreads : tuple of Spread
        What the scores of each view usually are.
    rows : Subspace or None
        The view of single rows, where it is among the steadiest.
    row_spread : Spread or None
    """

    soft_clip: SoftClip
    usual_square: Float32Array
    memory: Memory
    views: tuple[ContextView, ...]
    view_spreads: tuple[Spread, ...]
    rows: Subspace | None = None
    row_spread: Spread | None = None

    definition = (
        "geometric mean of how far the row is from what is normal in its context (its differences from its "
        "recent averages and the recent variability of its columns), each view in units of what it usually "
        "finds on normal rows"
    )
    least_threshold = 1.0

    @property
    def input_dim(self) -> int:
        """Number of features, D."""
        return self.memory.width

    @property
    def latent_dim(self) -> int:
        """Number of components of all views."""
        count = sum(len(view.directions) for view in self.views)
        return count + (self.rows.latent_dim if self.rows else 0)

    @property
    def scaling(self) -> Scaling:
        """The standardisation of raw columns."""
        return self.soft_clip.scaling

    @property
    def parts(self) -> int:
        """Number of views, that of single rows included."""
        return len(self.views) + (self.rows is not None)

    def score(
        self, rows: Float32Array, starts: tuple[int, ...] = (0,), steps: Float64Array | None = None
    ) -> Float32Array:
        """Score recordings [N, D] of raw rows, each from its first row on; computed in float64.

        `steps` [N], where half-lives count time, are as for `memory.remember`.
        """
        wide = rows.astype(np.float64)
        return self._score_views(wide, self._features(wide, starts, steps)[1]).astype(np.float32)

    def evaluate(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return scores [N] and reconstructions [N, D] of a recording of raw rows."""
        wide = rows.astype(np.float64)
        u, features = self._features(wide)
        scores = self._score_views(wide, features).astype(np.float32)
        first, values = self.views[0], features[0]
        beside = first.residual(values)[:, : self.input_dim] / first.inverse_scale[: self.input_dim]
        return scores, self.soft_clip.invert((u - beside).astype(np.float32))

    def contributions(self, rows: Float32Array) -> Float32Array:
        """Return each column's part in the scores of a recording, shape [N, D]."""
        wide: FloatArray = rows.astype(np.float64)
        _, features = self._features(wide)
        shares = [view.shares(values) for view, values in zip(self.views, features, strict=True)]
        if self.rows is not None:
            of_rows: FloatArray = self.rows.contributions(wide)
            shares.append(of_rows / self.rows.score(wide)[:, np.newaxis])
        scores = self._score_views(wide, features)
        contributions: Float32Array = np.mean(shares, axis=0) * scores[:, np.newaxis]
        return contributions

    def tolerable(self, scores: Float32Array) -> Float32Array:
        """Return what differences of these scores are measured by: the score, or the typical one."""
        typical = max(float(np.median(np.abs(scores))), float(np.finfo(np.float32).tiny))
        return np.maximum(np.abs(scores), np.float32(typical))

    def rounding(self, rows: Float32Array) -> float:
        """Return how far float32 arithmetic is from float64 on these rows, in units of `tolerable`."""
        scores = self.score(rows)
        narrow = self._score_views(rows, self._features(rows)[1])
        return float((np.abs(narrow - scores) / self.tolerable(scores)).max())

    def facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `training`."""
        views: list[Json] = [list(view.half_lives) for view in self.views]
        return {"model": "context", "views": views, "with_rows": self.rows is not None}

    def state_facts(self) -> dict[str, Json]:
        """Return what `config.json` says under `state`."""
        timed = self.memory.row_s is not None
        return {
            "size": self.memory.size,
            "initial": 0.0,
            "layout": ["averages", "variabilities", *(["extra_steps"] if timed else []), "rows"],
            "half_lives_rows": list(self.memory.half_lives),
            "warm_up_rows": self.memory.warm_up_rows,
            **({"row_s": self.memory.row_s} if timed else {}),
        }

    def summary(self) -> str:
        """Describe the model in a line."""
        lives = "; ".join("/".join(f"{h:g}" for h in view.half_lives) for view in self.views)
        rows = ", and single rows" if self.rows else ""
        return f"{self.latent_dim} principal components of contexts of half-life {lives} rows{rows}"

    def _features(
        self, rows: FloatArray, starts: tuple[int, ...] = (0,), steps: Float64Array | None = None
    ) -> tuple[FloatArray, list[FloatArray]]:
        """Return u and the views' features, in the precision of `rows`."""
        u = np.asarray(self.soft_clip.apply(rows), rows.dtype)
        remembered = remember(self.memory, u, self.usual_square, starts, steps)
        return u, [view.features(u, remembered) for view in self.views]

    def _score_views(self, rows: FloatArray, features: Sequence[FloatArray]) -> FloatArray:
        logs = [
            spread.log_ratio(view.score(values))
            for view, values, spread in zip(self.views, features, self.view_spreads, strict=True)
        ]
        if self.rows is not None and self.row_spread is not None:
            logs.append(self.row_spread.log_ratio(self.rows.score(rows)))
        scores: FloatArray = np.exp(np.mean(logs, axis=0))
        return scores


def raw_features(half_lives: Sequence[float], u: FloatArray, remembered: Remembered) -> FloatArray:
    """Return u, u - m and sqrt(r) of standardised rows u [N, D], shape [N, F]."""
    differences = [u - remembered.average[half_life] for half_life in half_lives]
    deviations = [
        np.minimum(np.sqrt(remembered.variability[half_life]), MOST_VARIABILITY) for half_life in half_lives
    ]
    return np.concatenate([u, *differences, *deviations], axis=1)


def fit_context(
    rows: Float32Array,
    held_out: BoolArray,
    *,
    order: Order | None = None,
    half_lives: tuple[float, ...] = (),
    needs_memory: bool = False,
) -> tuple[ContextModel | Subspace, Float32Array]:
    """Learn what is normal in context from recordings, and which views of it to trust.

    Every view is learnt from all rows but those held out and judged on those: the steadier its score on rows
    that it has not seen, the more a departure means. The steadiest views are kept, learnt again from all
    rows. Where that is the view of single rows alone, the result has no memory, unless half-lives are given
    or it needs one.

    Parameters
    ----------
    rows : float32 array, shape [N, D]
        Finite raw rows in the order in which they were observed, a recording behind the other.
    held_out : bool array, shape [N]
        Which rows are held out: the last ones of each recording.
    order : Order, optional
        How the rows follow each other; as one recording without it. Where it has times, half-lives count
        time.
    half_lives : tuple of float, optional
        In rows, of the one context there is then.
    needs_memory : bool
        Whether the steadiest of the contexts is kept in any case.

    Returns
    -------
    model : ContextModel or Subspace
    held_out_scores : float32 array, shape [number of rows held out]
        Their scores by the model that has not seen them.
    """
    contexts = {_GIVEN: half_lives} if half_lives else _CONTEXTS
    order = order or Order()
    early = _fit_views(rows, ~held_out, order, contexts)
    final = _fit_views(rows, np.ones(len(rows), bool), order, contexts, early)
    spreads = {name: spread_of(early.scores[name][held_out], final.scores[name]) for name in early.scores}
    chosen = steadiest(spreads)
    if half_lives and _GIVEN not in chosen:
        chosen = [_GIVEN]
    if needs_memory and chosen == [_ROWS]:
        chosen += steadiest({name: spreads[name] for name in contexts})[:1]
    if chosen == [_ROWS] and final.rows is not None:
        return final.rows, early.scores[_ROWS][held_out].astype(np.float32)
    logs = [spreads[name].log_ratio(early.scores[name][held_out]) for name in chosen]
    kept = [name for name in chosen if name != _ROWS]
    views = tuple(final.views[name] for name in kept)
    lives = tuple(half_life for view in views for half_life in view.half_lives)
    model = ContextModel(
        soft_clip=final.soft_clip,
        usual_square=final.usual_square,
        memory=Memory(rows.shape[1], lives, None if order.times_s is None else order.row_s),
        views=views,
        view_spreads=tuple(spreads[name] for name in kept),
        rows=final.rows if _ROWS in chosen else None,
        row_spread=spreads[_ROWS] if _ROWS in chosen else None,
    )
    return model, np.exp(np.mean(logs, axis=0)).astype(np.float32)


@dataclass(frozen=True)
class _Fitted:
    """Views learnt from some rows of recordings, and the scores they assign to all of them."""

    soft_clip: SoftClip
    usual_square: Float32Array
    views: dict[str, ContextView]
    rows: Subspace | None
    scores: dict[str, FloatArray]


def _fit_views(
    rows: Float32Array,
    seen: BoolArray,
    order: Order,
    contexts: Mapping[str, tuple[float, ...]],
    early: _Fitted | None = None,
) -> _Fitted:
    """Learn the views from the rows seen; what is usual far out comes from the others, or `early`."""
    soft_clip = _fit_wide_soft_clip(rows[seen])
    u = soft_clip.apply(rows.astype(np.float64))
    lives = tuple(half_life for half_lives in contexts.values() for half_life in half_lives)
    starts, steps = order.starts, order.steps()
    average = exponential_average(u, max(lives), starts, steps=steps)
    usual_square = np.maximum(np.square(u - average)[seen].mean(axis=0), _LEAST_USUAL).astype(np.float32)
    remembered = remember(Memory(rows.shape[1], lives), u, usual_square, starts, steps)
    views, scores = {}, {}
    for name, half_lives in contexts.items():
        raw = raw_features(half_lives, u, remembered)
        view = _fit_view(half_lives, raw[seen])
        standardised = (raw - view.center) * view.inverse_scale
        share = early.views[name].component_share if early else _component_share(view, standardised[~seen])
        views[name] = replace(view, component_share=share)
        scores[name] = views[name].score(standardised)
    of_rows: Subspace | None = None
    if early is not None:
        of_rows = refit(early.rows, rows) if early.rows is not None else None
    elif can_span(rows[seen]):
        of_rows = fit_subspace(rows[seen], rows[~seen])
    if of_rows is not None:
        scores[_ROWS] = of_rows.score(rows).astype(np.float64)
    return _Fitted(soft_clip, usual_square, views, of_rows, scores)


def _fit_view(half_lives: tuple[float, ...], raw: FloatArray) -> ContextView:
    center, deviation = raw.mean(axis=0), raw.std(axis=0)
    varying = deviation > _LEAST_DEVIATION
    inverse_scale = 1 / np.where(varying, deviation, 1.0)
    variances, directions = principal_components((raw - center) * inverse_scale)
    count = max(1, min(components_for(variances), int(np.count_nonzero(varying)) - 1))
    return ContextView(
        half_lives=half_lives,
        center=center.astype(np.float32),
        inverse_scale=inverse_scale.astype(np.float32),
        directions=directions[:count].astype(np.float32),
        variances=np.maximum(variances[:count], _LEAST_DEVIATION).astype(np.float32),
        component_share=0.0,
    )


def _component_share(view: ContextView, held_out: FloatArray) -> float:
    within = np.square(held_out @ view.directions.T / np.sqrt(view.variances)).mean(axis=1)
    usual_within = max(float(np.percentile(within, _USUAL)), 1.0)
    return float(np.percentile(view.score(held_out), _USUAL)) / usual_within / _TIMES_BEYOND


def _fit_wide_soft_clip(rows: Float32Array) -> SoftClip:
    """Learn a soft clip in which the unit of a constant column is its own size, or the typical deviation.

    Averages remember a move of such a column for long, so one percent of it must not count as much.
    """
    clip = fit_soft_clip(rows, knee=_KNEE)
    scaling = clip.scaling
    magnitude = np.abs(rows).max(axis=0).astype(np.float64)
    typical = float(np.median(scaling.scale[scaling.varying])) if scaling.varying.any() else 1.0
    scale = np.where(scaling.varying, scaling.scale, np.maximum(magnitude, typical))
    wide = replace(scaling, scale=scale.astype(np.float32), inverse_scale=(1 / scale).astype(np.float32))
    return SoftClip(wide, clip.knee)
