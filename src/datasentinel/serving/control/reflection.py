"""gRPC server reflection: clients learn services and messages from the server itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasentinel.messages import POOL
from datasentinel.serving.control import reflection_pb2 as pb
from datasentinel.serving.control.status import Code

if TYPE_CHECKING:
    from collections.abc import Collection

    from google.protobuf.descriptor import FileDescriptor

# Version 1 only renamed the package: the messages are the same.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """The one method of the service.

    Parameters
    ----------
    services : collection of str
        The services to list.
    """

    def __init__(self, services: Collection[str]) -> None:
        self._services = sorted(services)

    def server_reflection_info(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        """Answer one question; what is not known is an answer, too."""
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        question = request.WhichOneof("message_request")
        try:
            if question == "list_services":
                response.list_services_response.service.extend(
                    pb.ServiceResponse(name=name) for name in self._services
                )
            elif question == "file_by_filename":
                _describe(POOL.FindFileByName(request.file_by_filename), response)
            elif question == "file_containing_symbol":
                _describe(_file_of(request.file_containing_symbol), response)
            elif question == "all_extension_numbers_of_type":
                POOL.FindMessageTypeByName(request.all_extension_numbers_of_type)
                response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            else:  # No message here can be extended.
                raise KeyError(question)
        except KeyError:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = f"unknown: {question}"
        return response


def _file_of(symbol: str) -> FileDescriptor:
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:  # The pool does not know methods, but the services that have them.
        service, _, method = symbol.rpartition(".")
        if method not in POOL.FindServiceByName(service).methods_by_name:
            raise
        return POOL.FindFileContainingSymbol(service)


def _describe(file: FileDescriptor, response: pb.ServerReflectionResponse) -> None:
    """Add a file; none of ours imports another."""
    response.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
