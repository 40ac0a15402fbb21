"""`grpc.health.v1` of a real agent: Check and Watch through start and stop."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.app.agent import Agent
from edge_agent.config import Settings
from edge_agent.decoding.decoder import Decoder
from edge_agent.serving.detection import DetectionService
from tests.support.agents.tagged import dialled, fake_pipeline, running_agent, settings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICES = ["", "hilum.v1.Detector"]


def asking(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", SERVICES)
async def test_serving_only_once_the_model_is_warm_and_until_it_stops(service: str) -> None:
    warm = threading.Event()

    def load(settings: Settings, decoder: Decoder) -> DetectionService:
        assert warm.wait(30)
        return fake_pipeline(settings, decoder)

    agent = Agent(settings(), load)
    await agent.start()
    loading = asyncio.create_task(agent.load())
    async with dialled(agent) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(asking(service))
        assert (await health.Check(asking(service))).status == NOT_SERVING
        assert (await watch.read()).status == NOT_SERVING
        warm.set()
        await loading
        assert (await watch.read()).status == SERVING
        assert (await health.Check(asking(service))).status == SERVING
        stopping = asyncio.create_task(agent.stop())
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await watch.read()
        assert await stopping


async def test_a_watcher_that_leaves_ends_no_other_watch() -> None:
    agent = Agent(settings(), fake_pipeline)
    await agent.start()
    async with dialled(agent) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        leaves, stays = health.Watch(asking("")), health.Watch(asking(""))
        for watch in (leaves, stays):
            assert (await watch.read()).status == NOT_SERVING
        leaves.cancel()
        # Answered only after the server has seen the cancellation, which came first.
        await health.Check(asking(""))
        await agent.load()
        assert (await stays.read()).status == SERVING
        assert await agent.stop()


async def test_an_unknown_service() -> None:
    async with running_agent(settings(), fake_pipeline) as agent, dialled(agent) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(asking("nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(asking("nobody"))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        watch.cancel()
