"""An agent that is killed while it changes its model starts with a model that was active."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from edge_agent.engines.bundle import Bundle
from hilum.v1 import model_control_pb2 as pb
from hilum.v1.model_control_pb2_grpc import ModelControlStub
from tests.support.agents.tagged import agent_process, serving_line, write_toy_bundle

pytestmark = pytest.mark.slow


class Killed:
    """A box whose agent is killed at a step of a change, and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configured = write_toy_bundle(folder / "configured.bundle")
        self.new = write_toy_bundle(folder / "new.bundle", version="2.0.0")

    @contextmanager
    def agent(self) -> Iterator[tuple[ModelControlStub, dict[str, str]]]:
        """Run the agent until the block ends, then kill it."""
        environment = {
            "HILUM_EDGE__STATE_DIR": str(self.folder / "s"),
            "HILUM_EDGE__CACHE_DIR": str(self.folder / "cache"),
        }
        options = ("--port", "0", "--bundle", str(self.configured))
        with agent_process(*options, environment=environment) as process:
            line = serving_line(process)
            with grpc.insecure_channel(f"unix:{self.folder}/s/agent.sock") as channel:
                yield ModelControlStub(channel), line

    def digest_after_kill_at(self, step: str) -> str:
        """Return the digest that the next agent serves."""
        with self.agent() as (control, _):
            request = pb.ActivateModelRequest(bundle=str(self.new))
            for progress in control.ActivateModel(request):
                if progress.step == step:
                    break
        with self.agent() as (control, line):
            (model,) = control.ListModels(pb.ListModelsRequest()).models
            assert model.bundle_digest.startswith(line["digest"])
            return str(model.bundle_digest)


@pytest.mark.parametrize("step", ["opening", "loading", "testing"])
def test_before_the_switch_the_old_model_serves_after_the_restart(
    tmp_path: Path, step: str
) -> None:
    killed = Killed(tmp_path)
    assert killed.digest_after_kill_at(step) in {
        Bundle.open(killed.configured).digest,
        # The change may have gone on until the signal arrived.
        Bundle.open(killed.new).digest,
    }


def test_after_the_last_step_the_new_model_serves_after_the_restart(tmp_path: Path) -> None:
    killed = Killed(tmp_path)
    assert killed.digest_after_kill_at("active") == Bundle.open(killed.new).digest
