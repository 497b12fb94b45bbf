"""The ONNX graph of a trained detector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasentinel.export.autoencoder_graph import autoencoder_graph
from datasentinel.export.context_graph import context_graph
from datasentinel.export.ensemble_graph import ensemble_graph
from datasentinel.export.seasonal_graph import add_season
from datasentinel.export.subspace_graph import subspace_graph
from datasentinel.training.context import ContextModel
from datasentinel.training.ensemble import Ensemble
from datasentinel.training.seasonal import SeasonalModel
from datasentinel.training.subspace import Subspace

if TYPE_CHECKING:
    from datasentinel.training.fitting import Model


def build_graph(model: Model | SeasonalModel) -> bytes:
    """Return the ONNX file of a detector.

    Input `input` float32 [batch, D] in raw units. Outputs `score` float32 [batch], see the model's
    `definition`, `output` float32 [batch, D], the reconstruction in raw units, and `contributions` float32
    [batch, D], what each feature has to do with the score (docs/explanations.md). A model with memory also
    has an input `state` and an output `state_next`, float32 [batch, S]; zeros are a new stream's state.
    """
    if isinstance(model, SeasonalModel):
        return add_season(build_graph(model.inner), model.season)
    if isinstance(model, Ensemble):
        return ensemble_graph(model)
    if isinstance(model, ContextModel):
        return context_graph(model)
    if isinstance(model, Subspace):
        return subspace_graph(model)
    return autoencoder_graph(model.scaling, model.network.layers())
