"""What an error is on each wire: one table, which the native half and Python's half read alike."""

from __future__ import annotations

import pytest

from datasentinel import errors
from datasentinel.serving.control.status import Code, status_of


@pytest.mark.parametrize(
    ("error", "grpc", "http"),
    [
        (errors.InvalidInputError, Code.INVALID_ARGUMENT, 400),
        (errors.UnsupportedModelError, Code.INVALID_ARGUMENT, 400),
        (errors.NotAllowedError, Code.PERMISSION_DENIED, 403),
        (errors.ModelNotFoundError, Code.NOT_FOUND, 404),
        (errors.BackendError, Code.INTERNAL, 500),
        (errors.ArtifactError, Code.INTERNAL, 500),
        (errors.BackendUnavailableError, Code.UNAVAILABLE, 503),
        (errors.OutOfMemoryError, Code.RESOURCE_EXHAUSTED, 503),
        (errors.ResourceExhaustedError, Code.RESOURCE_EXHAUSTED, 503),
        (errors.MissingDependencyError, Code.INTERNAL, 500),  # Not of the list, nor is what others raise.
        (KeyError, Code.INTERNAL, 500),
    ],
)
def test_an_error_ends_a_request_as_its_class_says(error, grpc, http):
    status = status_of(error("why"))
    assert (status.grpc, status.http) == (grpc, http)
    assert status.is_fault_of_ours == (http >= 500)


def test_a_class_of_a_class_is_like_its_base():
    class OfAModel(errors.ModelNotFoundError):
        pass

    assert status_of(OfAModel("why")).http == 404
