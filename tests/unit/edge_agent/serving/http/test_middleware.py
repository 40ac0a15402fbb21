from __future__ import annotations

import asyncio

import httpx
from fastapi import FastAPI

from edge_agent.core.request_origin import parse_trusted_hosts
from edge_agent.serving.http.middleware import SecurityMiddleware
from tests.support.agents.http import caller


async def test_too_many_requests_are_refused_with_a_code_but_get_is_served() -> None:
    app, inside, go_on = FastAPI(), asyncio.Event(), asyncio.Event()

    @app.post("/wait")
    async def wait() -> str:
        inside.set()
        await go_on.wait()
        return "done"

    @app.get("/health")
    async def health() -> str:
        return "well"

    app.add_middleware(
        SecurityMiddleware,
        trusted_hosts=parse_trusted_hosts("http"),
        record_denial=lambda _denied: None,
        max_requests=1,
    )
    async with caller(app) as client:
        first = asyncio.create_task(client.post("/wait", content=b"x"))
        await inside.wait()
        refused = await client.post("/wait", content=b"x" * 100_000)
        health_page = await client.get("/health")
        go_on.set()
        assert (await first).status_code == httpx.codes.OK
        assert (await client.post("/wait")).status_code == httpx.codes.OK
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) > 0
    assert health_page.json() == "well"
