from __future__ import annotations

import grpc
import pytest

from edge_agent import errors
from edge_agent.errors import HilumError
from edge_agent.serving.grpc.errors import status_of

Status = grpc.StatusCode


def kinds(base: type[HilumError] = HilumError) -> list[type[HilumError]]:
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.StudyImageRefused, Status.INVALID_ARGUMENT),
        (errors.InvalidRequest, Status.INVALID_ARGUMENT),
        (errors.UnknownModel, Status.NOT_FOUND),
        (errors.Overloaded, Status.RESOURCE_EXHAUSTED),
        (errors.DeadlineExceeded, Status.DEADLINE_EXCEEDED),
        (errors.NotReady, Status.UNAVAILABLE),
        (errors.Unauthenticated, Status.UNAUTHENTICATED),
        (errors.Forbidden, Status.PERMISSION_DENIED),
        (errors.DecoderFailed, Status.INTERNAL),
        (errors.EngineFailed, Status.INTERNAL),
        (errors.BundleInvalid, Status.INTERNAL),
        (errors.ConfigInvalid, Status.INTERNAL),
        (HilumError, Status.INTERNAL),
    ],
)
def test_each_kind_of_error_has_its_status(kind: type[HilumError], status: Status) -> None:
    assert status_of(kind("wrong")) is status


def test_every_kind_of_error_has_a_status() -> None:
    agent_errors = [kind for kind in kinds() if kind.__module__ == "edge_agent.errors"]
    assert len(agent_errors) > 10
    for kind in agent_errors:
        is_internal = status_of(kind("wrong")) is Status.INTERNAL
        assert is_internal == (not issubclass(kind, errors.CallerError | errors.TryLater))
