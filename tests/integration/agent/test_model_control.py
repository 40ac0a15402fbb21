"""A running agent's models are listed and changed over its socket and over gRPC, by who may."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from edge_agent.app.agent import Agent
from edge_agent.app.models import load_detection_service
from edge_agent.engines.bundle import Bundle
from edge_agent.errors import NotReady
from hilum.v1 import detection_pb2 as detection_pb
from hilum.v1 import model_control_pb2 as pb
from hilum.v1.detection_pb2_grpc import DetectorStub
from hilum.v1.model_control_pb2_grpc import ModelControlStub
from tests.support.agents.tagged import (
    SIDE,
    fake_pipeline,
    hilum_error,
    open_channel,
    running_agent,
    settings,
    tagged_png,
    write_toy_bundle,
)
from tests.support.engines.priority import run_at_normal_priority

pytestmark = pytest.mark.slow


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    run_at_normal_priority(monkeypatch)
    agent_settings = settings(
        bundle=write_toy_bundle(tmp_path / "configured.bundle"),
        state_dir=tmp_path / "s",
        cache_dir=tmp_path / "cache",
        http={"enabled": True},
    )
    async with running_agent(agent_settings, load_detection_service) as agent:
        yield agent


@pytest.fixture
async def control(agent: Agent, tmp_path: Path) -> AsyncIterator[ModelControlStub]:
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s/agent.sock") as channel:
        yield ModelControlStub(channel)


async def test_a_bundle_is_activated_and_taken_back_over_the_socket(
    agent: Agent, control: ModelControlStub, tmp_path: Path
) -> None:
    new = write_toy_bundle(tmp_path / "new.bundle", version="2.0.0", side=2 * SIDE)
    steps = [
        progress.step
        async for progress in control.ActivateModel(pb.ActivateModelRequest(bundle=str(new)))
    ]
    assert steps == ["opening", "loading", "testing", "switched", "active"]
    async with open_channel(agent) as channel:
        request = detection_pb.DetectRequest(request_id="a", image=tagged_png(200))
        answer = await DetectorStub(channel).Detect(request)
        model = await DetectorStub(channel).GetModel(detection_pb.GetModelRequest())
    assert answer.bundle_digest == model.bundle_digest == Bundle.open(new).digest
    (listed,) = (await control.ListModels(pb.ListModelsRequest())).models
    assert listed.version == "2.0.0"
    assert listed.previous_digest
    steps = [step async for step in control.RevertModel(pb.RevertModelRequest())]
    assert (steps[-1].step, steps[-1].is_final) == ("active", True)
    (listed,) = (await control.ListModels(pb.ListModelsRequest())).models
    assert listed.version == "0.0.1"


async def test_a_refused_bundle_ends_with_the_reason(
    control: ModelControlStub, tmp_path: Path
) -> None:
    wrong = write_toy_bundle(tmp_path / "wrong.bundle", version="2.0.0", golden_score=0.5)
    steps = [
        step async for step in control.ActivateModel(pb.ActivateModelRequest(bundle=str(wrong)))
    ]
    assert steps[-1].step == "failed"
    assert steps[-1].is_final
    assert "golden cases" in steps[-1].reason


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.ActivateModelRequest(bundle="relative.bundle"), "invalid_request"),
        (pb.ActivateModelRequest(), "invalid_request"),
        (pb.ActivateModelRequest(bundle="/x", model="other"), "unknown_model"),
    ],
)
async def test_a_wrong_request_has_a_code(
    control: ModelControlStub, request_: pb.ActivateModelRequest, code: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [step async for step in control.ActivateModel(request_)]
    assert hilum_error(caught.value).code == code


async def test_a_shadow_is_compared_and_ends(
    agent: Agent, control: ModelControlStub, tmp_path: Path
) -> None:
    bundle = write_toy_bundle(tmp_path / "shadow.bundle", version="3.0.0", side=2 * SIDE)
    begun = await control.SetShadow(pb.SetShadowRequest(bundle=str(bundle)))
    assert (begun.shadow_name, begun.shadow_version) == ("toy", "3.0.0")
    assert agent.detection
    async with open_channel(agent) as channel:
        request = detection_pb.DetectRequest(request_id="a", image=tagged_png(200))
        await DetectorStub(channel).Detect(request)
    shadow = agent._changes.shadows._by_model["toy"]
    await shadow.flush()
    (listed,) = (await control.ListModels(pb.ListModelsRequest())).models
    assert listed.shadow_agreement.images == 1
    (finding,) = listed.shadow_agreement.findings
    assert (finding.slug, finding.matched) == ("nodule_mass", 1)
    assert abs(finding.mean_score_difference) < 0.01
    metrics = agent._metrics.render().decode()
    assert 'hilum_shadow_images_total{bundle="' in metrics
    ended = await control.SetShadow(pb.SetShadowRequest())
    assert not ended.shadow_name


async def test_a_shadow_that_cannot_run_is_refused_with_the_reason(
    control: ModelControlStub, tmp_path: Path
) -> None:
    wrong = write_toy_bundle(tmp_path / "wrong.bundle", version="2.0.0", golden_score=0.5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await control.SetShadow(pb.SetShadowRequest(bundle=str(wrong)))
    assert hilum_error(caught.value).code == "engine_failed"


async def test_callers_without_the_admin_role_may_not_change_models(agent: Agent) -> None:
    """On loopback without keys every program of the machine is a clinic, and none an operator."""
    async with open_channel(agent) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ModelControlStub(channel).ListModels(pb.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_socket_is_for_the_agents_user_only(agent: Agent, tmp_path: Path) -> None:
    assert (tmp_path / "s" / "agent.sock").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert agent.detection


async def test_no_model_is_changed_before_the_golden_cases_of_the_start_have_passed() -> None:
    testing, release = threading.Event(), threading.Event()

    def find_problem() -> str:
        testing.set()
        assert release.wait(60)
        return ""

    agent = Agent(
        settings(), lambda made, decoder: fake_pipeline(made, decoder, find_problem=find_problem)
    )
    await agent.start()
    loading = asyncio.create_task(agent.load())
    assert await asyncio.to_thread(testing.wait, 60)
    assert agent.detection is not None
    with pytest.raises(NotReady):
        await agent._changes.activate(Path("/any.bundle"))
    release.set()
    await loading
    assert len(await agent._changes.list_models()) == 1
    assert await agent.stop()
