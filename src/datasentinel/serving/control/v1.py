"""`datasentinel.v1.InferenceService`, as far as Python answers it: one vector with its reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasentinel.errors import InvalidInputError, UnsupportedModelError
from datasentinel.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    from datasentinel.serving.accounts import TransportAccount
    from datasentinel.serving.data_plane import DataPlane

SERVICE = "datasentinel.v1.InferenceService"


class Inference:
    """What the native session leaves to Python: requests for reasons or a p-value.

    Parameters
    ----------
    plane : DataPlane
    account : TransportAccount
        Where requests are counted.
    """

    def __init__(self, plane: DataPlane, account: TransportAccount) -> None:
        self._plane = plane
        self._account = account

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
            severity=evaluation.severity,
        )
