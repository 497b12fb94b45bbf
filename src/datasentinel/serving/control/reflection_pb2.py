"""Messages of `grpc.reflection.v1`."""

from typing import Any

from datasentinel.messages import attribute_of


def __getattr__(name: str) -> Any:  # noqa: ANN401  # a class, an enumeration or a number
    return attribute_of("grpc/reflection/v1/reflection.proto", name)
