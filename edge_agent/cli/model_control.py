"""`hilum-edge model list|activate|revert|shadow`: ask a running agent to change its models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from rich.markup import escape
from rich.table import Table

from edge_agent.cli.console import open_stderr, open_stdout
from edge_agent.cli.exit_codes import EXIT_FAILED, EXIT_OK, report_errors
from edge_agent.cli.output import print_document
from edge_agent.cli.settings import settings_from_options
from edge_agent.core.model_change import DESCRIPTIONS, Step
from edge_agent.errors import ConfigInvalid, HilumError
from edge_agent.serving.grpc import converters
from hilum.codes import ErrorCode
from hilum.v1 import detection_pb2
from hilum.v1 import model_control_pb2 as pb
from hilum.v1.model_control_pb2_grpc import ModelControlStub

_LIST_TIMEOUT_S: Final = 30.0
_CHANGE_TIMEOUT_S: Final = 1800.0
_DIGITS: Final = 12
_ERROR_METADATA: Final = "hilum-error-bin"


@report_errors
def list_command(*, config: Path | None, as_json: bool) -> int:
    """Print the served models; return the exit status."""
    with _connect(config) as stub:
        answer = stub.ListModels(pb.ListModelsRequest(), timeout=_LIST_TIMEOUT_S)
    if as_json:
        print_document(converters.to_json(answer))
        return EXIT_OK
    table = Table("model", "version", "digest", "engine", "previous", "shadow", "change", box=None)
    for model in answer.models:
        cells = (
            model.name,
            model.version,
            model.bundle_digest[:_DIGITS],
            model.engine,
            model.previous_digest[:_DIGITS],
            model.shadow_digest[:_DIGITS],
            model.change_step,
        )
        table.add_row(*map(escape, cells))
    open_stdout().print(table)
    return EXIT_OK


@report_errors
def activate_command(*, bundle: Path, model: str, config: Path | None) -> int:
    """Activate a bundle; return the exit status."""
    request = pb.ActivateModelRequest(bundle=str(bundle.absolute()), model=model)
    with _connect(config) as stub:
        return _follow(stub.ActivateModel(request, timeout=_CHANGE_TIMEOUT_S))


@report_errors
def revert_command(*, model: str, config: Path | None) -> int:
    """Activate the previous bundle; return the exit status."""
    with _connect(config) as stub:
        return _follow(
            stub.RevertModel(pb.RevertModelRequest(model=model), timeout=_CHANGE_TIMEOUT_S)
        )


@report_errors
def shadow_command(*, bundle: Path | None, model: str, config: Path | None) -> int:
    """Begin or end a shadow; return the exit status."""
    path = "" if bundle is None else str(bundle.absolute())
    with _connect(config) as stub:
        answer = stub.SetShadow(
            pb.SetShadowRequest(bundle=path, model=model), timeout=_CHANGE_TIMEOUT_S
        )
    shadow = f"{answer.shadow_name} {answer.shadow_version}"
    beside = f"{answer.name} {answer.version}"
    message = f"{shadow} runs beside {beside}" if bundle else f"{beside} has no shadow"
    open_stderr().print(escape(message), soft_wrap=True)
    return EXIT_OK


def _follow(steps: Iterator[pb.ModelChangeProgress]) -> int:
    """Print each step; return 1 if the old model answers in the end."""
    output = open_stderr()
    last = Step.OPENING
    for progress in steps:
        last = Step(progress.step)
        reason = f": {progress.reason}" if progress.reason else ""
        output.print(escape(f"{DESCRIPTIONS[last]}{reason}"), soft_wrap=True)
    return EXIT_OK if last is Step.ACTIVE else EXIT_FAILED


@contextmanager
def _connect(config: Path | None) -> Iterator[Any]:
    """Connect to the agent of these settings over the socket in its state folder.

    Raises:
        ConfigInvalid: no agent runs there, or this user may not change it.
        HilumError: the agent's own error.
    """
    socket = settings_from_options(config).socket
    if not socket.is_socket():
        raise ConfigInvalid(
            f"No running agent has its socket at {socket}.",
            hint="Give the agent's own settings with --config, and run this as the agent's user.",
        )
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            yield ModelControlStub(channel)
        except grpc.RpcError as error:
            raise _to_error(error, socket) from None


def _to_error(error: Any, socket: Path) -> HilumError:  # noqa: ANN401  # gRPC's error has no type
    metadata = dict(error.trailing_metadata() or ())
    if (sent := metadata.get(_ERROR_METADATA)) is None:
        return ConfigInvalid(
            f"The agent at {socket} does not answer: {error.details()}.",
            hint="Run this as the agent's user; `systemctl status hilum-edge` shows if it runs.",
        )
    message = detection_pb2.Error.FromString(sent)
    return HilumError(message.message, code=ErrorCode(message.code), hint=message.hint)
