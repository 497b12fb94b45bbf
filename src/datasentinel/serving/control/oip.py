"""The Open Inference Protocol over gRPC, without inference itself: `inference.GRPCInferenceService`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format

from datasentinel.errors import InvalidInputError, ModelNotFoundError
from datasentinel.oip import grpc_predict_v2_pb2 as pb
from datasentinel.serving.control import metadata

if TYPE_CHECKING:
    from datasentinel.serving.control.repository import ModelRepository
    from datasentinel.serving.data_plane import DataPlane

SERVICE = "inference.GRPCInferenceService"


class OpenInference:
    """The methods of the service: a message in, a message out.

    Each raises the errors of `datasentinel.errors`; the transport turns them into a status.

    Parameters
    ----------
    plane : DataPlane
    repository : ModelRepository
    max_rows : int
        Largest number of rows of one request.
    """

    def __init__(
        self,
        plane: DataPlane,
        repository: ModelRepository,
        *,
        max_rows: int,
    ) -> None:
        self._plane = plane
        self._repository = repository
        self._max_rows = max_rows

    def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:  # noqa: ARG002
        """Return whether the server runs."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:  # noqa: ARG002
        """Return whether requests are welcome."""
        return pb.ServerReadyResponse(ready=self._plane.ready)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Return whether a model is served; one that is not known is not ready, as over HTTP."""
        try:
            self._plane.served.find(request.name, request.version)
        except ModelNotFoundError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._plane.ready)

    def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:  # noqa: ARG002
        """Describe the server."""
        return pb.ServerMetadataResponse(**metadata.server_metadata())

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Describe a model's tensors."""
        model = self._plane.served.find(request.name, request.version)
        return json_format.ParseDict(
            metadata.model_metadata(self._plane.served, model), pb.ModelMetadataResponse()
        )

    def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Describe a model's configuration."""
        model = self._plane.served.find(request.name, request.version)
        config = metadata.model_config(model, self._max_rows)
        return json_format.ParseDict({"config": config}, pb.ModelConfigResponse())

    def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Return what a model has done, or all of them."""
        served = self._plane.served
        models = [served.find(request.name, request.version)] if request.name else served.all()
        statistics = [metadata.model_statistics(served, model) for model in models]
        return json_format.ParseDict({"model_stats": statistics}, pb.ModelStatisticsResponse())

    def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """List the models of the repository."""
        index = self._repository.index(ready_only=request.ready)
        return json_format.ParseDict({"models": index}, pb.RepositoryIndexResponse())

    async def repository_model_load(
        self, request: pb.RepositoryModelLoadRequest
    ) -> pb.RepositoryModelLoadResponse:
        """Load or reload a model."""
        _refuse_parameters(request)
        await self._repository.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: pb.RepositoryModelUnloadRequest
    ) -> pb.RepositoryModelUnloadResponse:
        """Serve a model no longer."""
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _refuse_parameters(request: pb.RepositoryModelLoadRequest) -> None:
    if request.parameters:
        names = ", ".join(sorted(request.parameters))
        raise InvalidInputError(f"no parameters are supported here, got {names}")
