"""The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from google.protobuf import json_format

from datasentinel.errors import DataSentinelError, InvalidInputError
from datasentinel.oip import grpc_predict_v2_pb2 as pb
from datasentinel.serving.models import DEFAULT_OUTPUTS, OUTPUTS
from datasentinel.serving.protocols import metadata

if TYPE_CHECKING:
    from datasentinel.serving.data_plane import DataPlane, TransportAccount
    from datasentinel.serving.repository import ModelRepository
    from datasentinel.types import Float32Array

SERVICE = "inference.GRPCInferenceService"


class OpenInference:
    """The methods of the service: a message in, a message out.

    Each raises the errors of `datasentinel.errors`; whoever carries the call turns them into a status.

    Parameters
    ----------
    plane : DataPlane
    repository : ModelRepository
    account : TransportAccount
        Where inference requests are counted.
    max_rows : int
        Largest number of rows of one request.
    """

    def __init__(
        self,
        plane: DataPlane,
        repository: ModelRepository,
        account: TransportAccount,
        *,
        max_rows: int,
    ) -> None:
        self._plane = plane
        self._repository = repository
        self._account = account
        self._max_rows = max_rows

    def server_live(self, request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:  # noqa: ARG002
        """Tell whether the server runs."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:  # noqa: ARG002
        """Tell whether requests are welcome."""
        return pb.ServerReadyResponse(ready=self._plane.ready)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Tell whether a model is served."""
        self._plane.served.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._plane.ready)

    def server_metadata(self, request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:  # noqa: ARG002
        """Tell who answers."""
        return pb.ServerMetadataResponse(**metadata.server_metadata())

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Tell a model's tensors."""
        model = self._plane.served.find(request.name, request.version)
        return json_format.ParseDict(
            metadata.model_metadata(self._plane.served, model), pb.ModelMetadataResponse()
        )

    def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Tell a model's configuration."""
        model = self._plane.served.find(request.name, request.version)
        config = metadata.model_config(model, self._max_rows)
        return json_format.ParseDict({"config": config}, pb.ModelConfigResponse())

    def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Tell what a model did, or all of them."""
        served = self._plane.served
        models = [served.find(request.name, request.version)] if request.name else served.all()
        statistics = [metadata.model_statistics(served, model) for model in models]
        return json_format.ParseDict({"model_stats": statistics}, pb.ModelStatisticsResponse())

    def model_infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Compute the outputs asked for."""
        with self._plane.refusals_counted(self._account):
            model = self._plane.served.find(request.model_name, request.model_version)
        with self._plane.refusals_counted(self._account, model):
            names = _requested_outputs(request)
            rows = _rows_of(request, model.detector.input_dim, self._max_rows)
        try:
            outputs = self._plane.infer(model, rows, names, self._account)
        except InvalidInputError as error:
            raise InvalidInputError(f"input 'input': {error}") from error
        response = pb.ModelInferResponse(model_name=model.name, model_version=model.version, id=request.id)
        raw = bool(request.raw_input_contents)
        for name in names:
            values = outputs[name]
            is_flag = values.dtype == np.bool_
            tensor = response.outputs.add(
                name=name, datatype="BOOL" if is_flag else "FP32", shape=values.shape
            )
            if raw:
                response.raw_output_contents.append(values.tobytes())
            elif is_flag:
                tensor.contents.bool_contents.extend(values.tolist())
            else:
                tensor.contents.fp32_contents.extend(values.ravel())
        return response

    def model_stream_infer(self, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        """Answer one request of a stream; an error is an answer, too, and the stream goes on."""
        try:
            return pb.ModelStreamInferResponse(infer_response=self.model_infer(request))
        except DataSentinelError as error:
            # The request's id is how a client tells which of its requests failed.
            return pb.ModelStreamInferResponse(
                error_message=str(error), infer_response=pb.ModelInferResponse(id=request.id)
            )

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


def _requested_outputs(request: pb.ModelInferRequest) -> list[str]:
    names: list[str] = []
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise InvalidInputError(
                f"unknown output {output.name!r}; this model has score, anomaly, output and contributions"
            )
        if output.parameters.keys() & {"shared_memory_region", "classification"}:
            raise InvalidInputError(
                f"output {output.name!r}: shared memory and classification are not supported"
            )
        if output.name in names:
            raise InvalidInputError(f"output {output.name!r} is asked for twice")
        names.append(output.name)
    return names or list(DEFAULT_OUTPUTS)


def _rows_of(request: pb.ModelInferRequest, columns: int, max_rows: int) -> Float32Array:
    """Give the input's rows [N, D]; raw ones without a copy."""
    if len(request.inputs) != 1:
        raise InvalidInputError(f"expected 1 input, 'input', got {len(request.inputs)}")
    if len(request.raw_input_contents) > 1:
        raise InvalidInputError(
            f"expected 1 entry of raw_input_contents, got {len(request.raw_input_contents)}"
        )
    (tensor,) = request.inputs
    if tensor.name != "input":
        raise InvalidInputError(f"unknown input {tensor.name!r}; this model has one input, 'input'")
    if "shared_memory_region" in tensor.parameters:
        raise InvalidInputError("input 'input': shared memory is not supported")
    if tensor.datatype != "FP32":
        raise InvalidInputError(f"input 'input': expected datatype FP32, got {tensor.datatype!r}")
    shape = list(tensor.shape)
    if len(shape) != 2 or shape[0] < 0 or shape[1] != columns:
        raise InvalidInputError(f"input 'input': expected shape [N, {columns}], got {shape}")
    if shape[0] > max_rows:
        raise InvalidInputError(f"input 'input': at most {max_rows} rows a request, got {shape[0]}")
    size = shape[0] * columns
    if not request.raw_input_contents:
        values = np.array(tensor.contents.fp32_contents, dtype=np.float32)
        if len(values) != size:
            raise InvalidInputError(
                f"input 'input': its shape needs {size} values of fp32_contents, got {len(values)}"
            )
        return values.reshape(shape)
    if tensor.HasField("contents"):
        raise InvalidInputError("input 'input': it has both contents and raw_input_contents")
    raw = request.raw_input_contents[0]
    if len(raw) != 4 * size:
        raise InvalidInputError(
            f"input 'input': its shape needs {4 * size} bytes of raw_input_contents, got {len(raw)}"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(shape)


def _refuse_parameters(request: pb.RepositoryModelLoadRequest) -> None:
    if request.parameters:
        names = ", ".join(sorted(request.parameters))
        raise InvalidInputError(f"no parameters are supported here, got {names}")
