"""`datasentinel.v1.InferenceService`: vectors, batches of them, and streams of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datasentinel.errors import InvalidInputError, ModelNotFoundError, UnsupportedModelError
from datasentinel.serving.models import DEFAULT_OUTPUTS
from datasentinel.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from datasentinel.serving.data_plane import DataPlane, TransportAccount
    from datasentinel.types import Float32Array

SERVICE = "datasentinel.v1.InferenceService"


class Inference:
    """The methods of the service: a message in, a message out.

    Parameters
    ----------
    plane : DataPlane
    account : TransportAccount
        Where requests are counted.
    max_rows : int
        Largest number of rows of one request.
    """

    def __init__(self, plane: DataPlane, account: TransportAccount, *, max_rows: int) -> None:
        self._plane = plane
        self._account = account
        self._max_rows = max_rows

    def evaluate(self, request: pb.EvaluateRequest) -> pb.EvaluateResponse:
        """Score one vector; a bad one is answered with a message."""
        try:
            evaluation = self._plane.evaluate(
                request.values,
                self._account,
                explain_top=request.explain_top,
                with_p_value=request.with_p_value,
            )
        except (InvalidInputError, UnsupportedModelError) as error:
            return pb.EvaluateResponse(status=pb.ERROR, message=str(error))
        return pb.EvaluateResponse(
            status=pb.ANOMALY if evaluation.is_anomaly else pb.OK,
            mse=evaluation.score,
            contributions=[
                pb.Contribution(
                    feature=reason.feature,
                    contribution=reason.contribution,
                    value=reason.value,
                    expected=reason.expected,
                )
                for reason in evaluation.reasons
            ],
            p_value=evaluation.p_value,
        )

    def evaluate_batch(self, request: pb.EvaluateBatchRequest) -> pb.EvaluateBatchResponse:
        """Score a batch; a bad one is answered with a message and no scores."""
        try:
            with self._plane.refusals_counted(self._account):
                model = self._plane.served.find(request.model_name, request.model_version)
            with self._plane.refusals_counted(self._account, model):
                rows = _rows_of(request, model.detector.input_dim, self._max_rows)
            outputs = self._plane.infer(model, rows, DEFAULT_OUTPUTS, self._account)
        except (InvalidInputError, ModelNotFoundError) as error:
            return pb.EvaluateBatchResponse(id=request.id, message=str(error))
        return pb.EvaluateBatchResponse(
            id=request.id,
            scores=outputs["score"],
            statuses=np.where(outputs["anomaly"], pb.ANOMALY, pb.OK).tolist(),
        )


def _rows_of(request: pb.EvaluateBatchRequest, columns: int, max_rows: int) -> Float32Array:
    """Give the batch's rows [N, D]; raw ones without a copy."""
    if request.rows > max_rows:
        raise InvalidInputError(f"at most {max_rows} rows a request, got {request.rows}")
    size = request.rows * columns
    if request.values and request.raw_values:
        raise InvalidInputError("a batch has either values or raw_values, not both")
    if request.raw_values:
        if len(request.raw_values) != 4 * size:
            raise InvalidInputError(
                f"expected {4 * size} bytes of raw_values for {request.rows} rows of {columns} values, got "
                f"{len(request.raw_values)}"
            )
        values = np.frombuffer(request.raw_values, dtype="<f4")
    else:
        values = np.array(request.values, dtype=np.float32)
        if len(values) != size:
            raise InvalidInputError(
                f"expected {size} values for {request.rows} rows of {columns} values, got {len(values)}"
            )
    return values.reshape(request.rows, columns)
