"""Protobuf messages, made at import from the descriptors that the build compiled.

Generated message code runs only with the protobuf releases of about a year; descriptors run with all of them,
so that whatever release other packages pin will do. The messages live in a pool of their own, where another
package's messages of the same names, a client's of the Open Inference Protocol for instance, do no harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from datasentinel._descriptors import DESCRIPTOR_SET

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import MethodDescriptor

POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTOR_SET).file:
    POOL.AddSerializedFile(_file.SerializeToString())


def attribute_of(file: str, name: str) -> Any:  # noqa: ANN401  # a class, an enumeration or a number
    """Return what a file's module offers under a name: a message, an enumeration, or one of its values.

    Parameters
    ----------
    file : str
        As the descriptors name it.
    name : str

    Raises
    ------
    AttributeError
        The file defines nothing of this name.
    """
    descriptor = POOL.FindFileByName(file)
    if name == "DESCRIPTOR":
        return descriptor
    if name in descriptor.message_types_by_name:
        return message_factory.GetMessageClass(descriptor.message_types_by_name[name])
    if name in descriptor.enum_types_by_name:
        return EnumTypeWrapper(descriptor.enum_types_by_name[name])
    for enum in descriptor.enum_types_by_name.values():
        if name in enum.values_by_name:
            return enum.values_by_name[name].number
    raise AttributeError(f"{file} defines no {name}")


def make_stub(service: str) -> type:
    """Make a client class: `stub = Stub(channel)` has a callable for each method of the service.

    Parameters
    ----------
    service : str
        Its full name.
    """
    descriptor = POOL.FindServiceByName(service)

    class Stub:
        def __init__(self, channel: Any) -> None:  # noqa: ANN401  # of grpc or grpc.aio
            for method in descriptor.methods:
                setattr(self, method.name, _bind(channel, service, method))

    Stub.__name__ = Stub.__qualname__ = f"{descriptor.name}Stub"
    Stub.__doc__ = f"A client of `{service}` on a channel of grpcio."
    return Stub


def _bind(channel: Any, service: str, method: MethodDescriptor) -> Callable[..., Any]:  # noqa: ANN401
    streaming = (method.client_streaming, method.server_streaming)
    kind = "_".join("stream" if streams else "unary" for streams in streaming)
    bind: Callable[..., Callable[..., Any]] = getattr(channel, kind)
    return bind(
        f"/{service}/{method.name}",
        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
