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
from tests.support.agents.tagged import fake_pipeline, open_channel, running_agent, settings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICES = ["", "hilum.v1.Detector"]


def check_request(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", SERVICES)
async def test_the_agent_is_serving_from_the_warm_up_of_its_model_until_it_stops(
    service: str,
) -> None:
    warm = threading.Event()

    def load(settings: Settings, decoder: Decoder) -> DetectionService:
        assert warm.wait(30)
        return fake_pipeline(settings, decoder)

    agent = Agent(settings(), load)
    await agent.start()
    loading = asyncio.create_task(agent.load())
    async with open_channel(agent) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(check_request(service))
        assert (await health.Check(check_request(service))).status == NOT_SERVING
        assert (await watch.read()).status == NOT_SERVING
        warm.set()
        await loading
        assert (await watch.read()).status == SERVING
        assert (await health.Check(check_request(service))).status == SERVING
        stopping = asyncio.create_task(agent.stop())
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await watch.read()
        assert await stopping


async def test_a_cancelled_watch_ends_no_other_watch() -> None:
    agent = Agent(settings(), fake_pipeline)
    await agent.start()
    async with open_channel(agent) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        leaving, staying = health.Watch(check_request("")), health.Watch(check_request(""))
        for watch in (leaving, staying):
            assert (await watch.read()).status == NOT_SERVING
        leaving.cancel()
        # Answered only after the server has seen the cancellation, which came first.
        await health.Check(check_request(""))
        await agent.load()
        assert (await staying.read()).status == SERVING
        assert await agent.stop()


async def test_an_unknown_service_is_not_found() -> None:
    async with running_agent(settings(), fake_pipeline) as agent, open_channel(agent) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(check_request("unknown"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(check_request("unknown"))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        watch.cancel()
