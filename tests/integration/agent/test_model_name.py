"""A request may name the model: only the model in use is accepted, over gRPC and over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest

from edge_agent.app.agent import Agent
from hilum.client import AsyncClient, DetectError, Result
from tests.support.agents.tagged import open_channel, running_agent, settings, tagged_png

IMAGE = tagged_png(200)


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with running_agent(settings(http={"enabled": True})) as agent:
        yield agent


@pytest.mark.parametrize("name", ["", "toy"])
async def test_no_name_and_the_name_of_the_model_in_use_are_accepted(
    agent: Agent, name: str
) -> None:
    async with AsyncClient(agent.address) as client:
        assert (await client.model(name)).name == "toy"
        assert (await client.detect(IMAGE, model=name)).findings
        outcomes = [it async for it in client.detect_many([("a", IMAGE)], model=name)]
        assert isinstance(outcomes[0][1], Result)
    async with httpx.AsyncClient(base_url=agent.page, timeout=60) as caller:
        assert (await caller.get("/model", params={"model": name})).json()["name"] == "toy"
        answer = await caller.post("/predict", params={"model": name}, files={"file": IMAGE})
        assert answer.json()["predictions"]


async def test_any_other_name_is_refused_over_grpc(agent: Agent) -> None:
    async with AsyncClient(agent.address) as client:
        for call in (client.model("other"), client.detect(IMAGE, model="other")):
            with pytest.raises(DetectError) as caught:
                await call
            assert caught.value.code == "unknown_model"
            assert "'toy'" in caught.value.hint
            assert not caught.value.retryable
        outcomes = [it async for it in client.detect_many([("a", IMAGE)], model="other")]
        assert isinstance(outcomes[0][1], DetectError)
        assert outcomes[0][1].code == "unknown_model"


@pytest.mark.parametrize(
    "options", [{"params": {"model": "other"}}, {"data": {"model": "other"}}], ids=["query", "form"]
)
async def test_any_other_name_is_refused_over_http(agent: Agent, options: dict[str, Any]) -> None:
    async with httpx.AsyncClient(base_url=agent.page, timeout=60) as caller:
        answers = [await caller.post("/predict", files={"file": IMAGE}, **options)]
        if "params" in options:
            answers.append(await caller.get("/model", **options))
        answers.append(await caller.post("/predict/batch", files={"files": IMAGE}, **options))
    for answer in answers:
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_model"
        assert "'toy'" in answer.json()["error"]["hint"]


async def test_a_model_request_that_is_no_protobuf_is_refused(agent: Agent) -> None:
    async with open_channel(agent) as channel:
        get_model = channel.unary_unary("/hilum.v1.Detector/GetModel")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_model(b"\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
