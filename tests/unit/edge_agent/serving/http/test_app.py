"""The HTTP API over a real detection service: each address, and each kind of failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from edge_agent.core.admission import Priority
from edge_agent.core.lifecycle import Lifecycle
from edge_agent.errors import EngineFailed, NotReady, Overloaded
from edge_agent.serving.detection import Detect
from edge_agent.serving.http.endpoints import HttpLimits
from edge_agent.serving.types import DetectionRequest, DetectionResult
from hilum.catalog import CATALOG
from tests.support.agents.http import caller, file_form, http_app
from tests.support.agents.tagged import (
    DIGEST,
    SIDE,
    SQUARE,
    Latch,
    eventually,
    fake_pipeline,
    settings,
    tagged_png,
)
from tests.support.engines.fake_engine import FakeEngine

TAG = 204  # Class 8 (nodule or mass), score 0.8.
FRACTIONS = [side / SIDE for side in SQUARE]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with caller(http_app()) as client:
        yield client


def error_of(answer: httpx.Response, status: int) -> dict[str, str]:
    """The answer's error, after its form and status have been checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "hint", "message"]
    assert body["error"]["message"]
    return body["error"]


class TestPredict:
    async def test_a_finding_has_its_box_and_facts(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/predict", **file_form(tagged_png(TAG)))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        body = answer.json()
        (finding,) = body["predictions"]
        assert finding["class"] == "nodule_mass"
        assert finding["confidence"] == pytest.approx(0.8, abs=1e-6)
        assert finding["bbox"] == pytest.approx(FRACTIONS, abs=1e-4)
        assert list(finding["box"].values()) == pytest.approx(SQUARE, abs=0.01)
        assert (finding["name"], finding["index"]) == ("Nodule/Mass", 8)
        assert finding["concept"]["value"] == "NODULE_MASS"
        assert body["inference_time"] == pytest.approx(body["timings"]["infer_ms"] / 1e3, abs=1e-5)
        assert body["bundle_digest"] == DIGEST
        assert body["engine"] == "fake"
        assert (body["image"]["rows"], body["image"]["columns"]) == (SIDE, SIDE)
        assert body["image"]["format"] == "png"
        assert len(body["request_id"]) == 32

    async def test_no_findings_are_an_empty_list(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(
            "/predict", **file_form(tagged_png(TAG)), data={"threshold": "0.9"}
        )
        assert answer.json()["predictions"] == []

    @pytest.mark.parametrize("where", ["data", "params"])
    async def test_options_come_as_fields_or_in_the_query(self, where: str) -> None:
        seen: list[DetectionRequest] = []
        async with caller(http_app(_Watched(seen))) as client:
            options = {
                "threshold": "0.3",
                "priority": "stat",
                "timeout_s": "60",
                "request_id": "mine",
            }
            await client.post("/predict", **file_form(tagged_png(TAG)), **{where: options})
        (request,) = seen
        assert request.request_id == "mine"
        assert request.score_threshold == 0.3
        assert request.priority is Priority.STAT
        assert request.deadline is not None

    @pytest.mark.parametrize(
        "options",
        [
            {"threshold": "0"},
            {"threshold": "1.1"},
            {"threshold": "nan"},
            {"threshold": "high"},
            {"priority": "now"},
            {"timeout_s": "-1"},
            {"request_id": ""},
            {"request_id": "x" * 129},
            {"treshold": "0.5"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("where", ["data", "params"])
    async def test_refuses_a_wrong_option_by_its_name(
        self, client: httpx.AsyncClient, options: dict[str, str], where: str
    ) -> None:
        answer = await client.post("/predict", **file_form(tagged_png(TAG)), **{where: options})
        error = error_of(answer, 422)
        assert error["code"] == "invalid_request"
        assert f'"{next(iter(options))}"' in error["message"]

    @pytest.mark.parametrize(
        ("data", "code"),
        [(b"", "empty_file"), (b"a holiday's diary", "not_an_image")],
        ids=["empty", "text"],
    )
    async def test_refuses_bytes_that_are_not_an_image(
        self, client: httpx.AsyncClient, data: bytes, code: str
    ) -> None:
        error = error_of(await client.post("/predict", **file_form(data)), 422)
        assert error["code"] == code
        assert error["hint"]

    @pytest.mark.parametrize(
        "files",
        [
            [],
            [("image", ("image", b"x"))],
            [("file", ("a", b"x")), ("file", ("b", b"x"))],
            [("file", ("a", b"x")), ("other", ("b", b"x"))],
        ],
        ids=["none", "wrong-field", "two", "one-too-many"],
    )
    async def test_requires_exactly_one_file(
        self, client: httpx.AsyncClient, files: list[Any]
    ) -> None:
        answer = await client.post("/predict", files=files or {"threshold": (None, "0.5")})
        assert error_of(answer, 422)["code"] == "invalid_request"

    async def test_refuses_a_file_beyond_the_limit(self) -> None:
        async with caller(http_app(limits=HttpLimits(max_image_bytes=1000))) as client:
            error = error_of(await client.post("/predict", **file_form(b"x" * 1001)), 413)
            assert error["code"] == "too_large"
            error = error_of(await client.post("/predict", **file_form(b"x" * 100_000)), 413)
            assert error["code"] == "too_large"

    async def test_fails_at_the_deadline(self) -> None:
        latch = Latch()
        service = fake_pipeline(settings(), None, FakeEngine(SIDE, SIDE, before=latch))
        async with caller(http_app(service)) as client:
            first = asyncio.ensure_future(client.post("/predict", **file_form(tagged_png(200))))
            await latch.wait_for_arrival(200)
            second = await client.post(
                "/predict", **file_form(tagged_png(201)), data={"timeout_s": "0.05"}
            )
            assert error_of(second, 504)["code"] == "deadline_exceeded"
            latch.release(200)
            assert (await first).status_code == 200


class _Watched:
    """A pipeline that notes what it is asked."""

    def __init__(self, seen: list[DetectionRequest]) -> None:
        self._inner = fake_pipeline(settings())
        self._seen = seen
        self.host = self._inner.host

    async def detect(self, request: DetectionRequest) -> DetectionResult:
        self._seen.append(request)
        return await self._inner.detect(request)

    @contextmanager
    def pin(self, name: str = "") -> Iterator[Detect]:
        with self.host.lease(name):
            yield self.detect


class _Failing:
    """A pipeline that fails in one way."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.host = fake_pipeline(settings()).host

    async def detect(self, request: DetectionRequest) -> DetectionResult:
        raise self._error

    @contextmanager
    def pin(self, name: str = "") -> Iterator[Detect]:
        yield self.detect


class TestFailures:
    async def test_overload_has_a_retry_time(self) -> None:
        full = Overloaded("The queue is full.")
        full.retry_after_s = 2.2
        async with caller(http_app(_Failing(full))) as client:
            answer = await client.post("/predict", **file_form(tagged_png(TAG)))
        assert error_of(answer, 503)["code"] == "overloaded"
        assert answer.headers["retry-after"] == "3"

    async def test_a_failure_of_the_agent_is_a_500_with_a_code(self) -> None:
        broken = EngineFailed("The engine is broken.")
        async with caller(http_app(_Failing(broken))) as client:
            answer = await client.post("/predict", **file_form(tagged_png(TAG)))
        assert error_of(answer, 500)["code"] == "engine_failed"

    async def test_an_unforeseen_failure_has_no_details(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        secret = "Doe^Jane"  # noqa: S105  # a patient's name
        async with caller(http_app(_Failing(ValueError(secret)))) as client:
            answer = await client.post("/predict", **file_form(tagged_png(TAG)))
            assert error_of(answer, 500)["code"] == "internal"
            assert secret not in answer.text
            assert secret not in caplog.text
            assert (await client.get("/healthz")).status_code == 200

    async def test_not_ready_is_503_everywhere_it_matters(self) -> None:
        def not_yet(_name: str = "") -> Any:
            raise NotReady("The agent is loading its model.")

        app = http_app(
            get_service=not_yet, renderer=not_yet, model_info=not_yet, lifecycle=Lifecycle()
        )
        async with caller(app) as client:
            for request in (
                client.post("/predict", **file_form(tagged_png(TAG))),
                client.post("/predict/batch", **file_form(tagged_png(TAG), "files")),
                client.post("/render", **file_form(tagged_png(TAG))),
                client.get("/model"),
            ):
                answer = await request
                assert error_of(answer, 503)["code"] == "not_ready"
                assert answer.headers["retry-after"] == "1"
            readiness = await client.get("/readyz")
            assert error_of(readiness, 503)["code"] == "not_ready"
            assert readiness.headers["retry-after"] == "2"
            assert (await client.get("/healthz")).json() == {"status": "ok"}

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/nothing", 404),
            ("POST", "/nothing", 404),
            ("GET", "/predict", 405),
            ("DELETE", "/model", 405),
            ("GET", "/../../etc/passwd", 404),
            ("GET", "/messages/..%2f..%2f__init__.py", 404),
            ("GET", "/__init__.py", 404),
        ],
    )
    async def test_unknown_addresses_and_methods_fail_in_the_same_form(
        self, client: httpx.AsyncClient, method: str, path: str, status: int
    ) -> None:
        answer = await client.request(method, path)
        error_of(answer, status)
        assert ("allow" in answer.headers) == (status == 405)


class TestBatch:
    async def test_results_come_in_the_order_sent_and_a_bad_file_affects_no_other(
        self, client: httpx.AsyncClient
    ) -> None:
        tags = [200, 130, 254, 131, 199]
        files = [("files", ("image", tagged_png(tag))) for tag in tags]
        files.insert(2, ("files", ("image", b"no image")))
        answer = await client.post("/predict/batch", files=files, data={"request_id": "b"})
        assert answer.status_code == 200
        results = answer.json()["results"]
        assert [item["index"] for item in results] == list(range(6))
        assert [item["status"] for item in results] == [200, 200, 422, 200, 200, 200]
        assert results[2]["error"]["code"] == "not_an_image"
        assert results[2]["result"] is None
        answered = [item["result"] for item in results if item["result"]]
        scores = [result["predictions"][0]["confidence"] for result in answered]
        assert scores == pytest.approx([tag / 255 for tag in tags], abs=1e-6)
        assert [r["request_id"] for r in answered] == ["b-0", "b-1", "b-3", "b-4", "b-5"]

    async def test_all_files_share_one_deadline(self) -> None:
        latch = Latch()
        service = fake_pipeline(settings(), None, FakeEngine(SIDE, SIDE, before=latch))
        files = [("files", ("image", tagged_png(tag))) for tag in (200, 201)]
        clock = asyncio.get_running_loop().time
        latch.release(201)
        app = http_app(service, limits=HttpLimits(batch_concurrency=1))
        async with caller(app) as client:
            began = clock()
            batch = asyncio.ensure_future(
                client.post("/predict/batch", files=files, data={"timeout_s": "0.3"})
            )
            await latch.wait_for_arrival(200)
            await eventually(lambda: clock() > began + 0.6)
            latch.release(200)
            results = (await batch).json()["results"]
        assert [item["status"] for item in results] == [200, 504]
        assert results[1]["error"]["code"] == "deadline_exceeded"

    async def test_a_file_beyond_the_limit_affects_no_other(self) -> None:
        small = tagged_png(TAG)
        limits = HttpLimits(max_image_bytes=len(small))
        files = [("files", ("image", data)) for data in (small, small + b"x", small)]
        async with caller(http_app(limits=limits)) as client:
            results = (await client.post("/predict/batch", files=files)).json()["results"]
        assert [item["status"] for item in results] == [200, 413, 200]
        assert results[1]["error"]["code"] == "too_large"

    async def test_bounds_the_number_of_files(self) -> None:
        files = [("files", ("image", b"x"))] * 3
        async with caller(http_app(limits=HttpLimits(max_batch_files=2))) as client:
            error_of(await client.post("/predict/batch", files=files), 422)

    async def test_an_unforeseen_failure_of_one_item_has_a_code(self) -> None:
        async with caller(http_app(_Failing(ValueError("x")))) as client:
            answer = await client.post("/predict/batch", **file_form(tagged_png(TAG), "files"))
        (item,) = answer.json()["results"]
        assert (item["status"], item["error"]["code"]) == (500, "internal")


class TestFacts:
    async def test_model(self, client: httpx.AsyncClient) -> None:
        body = (await client.get("/model")).json()
        assert (body["name"], body["version"], body["bundle_digest"]) == ("toy", "0.0.1", DIGEST)
        assert body["score_floor"] == 0.05
        assert [kind["slug"] for kind in body["findings"]] == [kind.slug for kind in CATALOG]
        assert {kind["operating_point"] for kind in body["findings"]} == {0.25}

    async def test_health_readiness_and_metrics(self, client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        metrics = await client.get("/metrics")
        assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert metrics.text.endswith("up 1\n")

    async def test_render_draws_a_png(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/render", **file_form(tagged_png(TAG)))
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.content.startswith(b"\x89PNG")
        error_of(await client.post("/render", **file_form(b"no image")), 422)

    async def test_openapi_describes_the_forms(self, client: httpx.AsyncClient) -> None:
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert {"/predict", "/predict/batch", "/render", "/model", "/readyz"} <= set(paths)
        form = paths["/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert form["schema"]["properties"]["file"]["format"] == "binary"
        names = {parameter["name"] for parameter in paths["/predict"]["post"]["parameters"]}
        assert names == {"threshold", "priority", "timeout_s", "request_id", "model"}


class TestPages:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/", "text/html; charset=utf-8"),
            ("/docs", "text/html; charset=utf-8"),
            ("/style.css", "text/css; charset=utf-8"),
            ("/js/app.js", "text/javascript; charset=utf-8"),
            ("/messages/de.json", "application/json"),
            ("/icon.svg", "image/svg+xml"),
        ],
    )
    async def test_files_have_their_content_type_and_security_headers(
        self, client: httpx.AsyncClient, path: str, kind: str
    ) -> None:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = await client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


class TestAccess:
    async def test_a_request_from_another_sites_page_is_refused(
        self, client: httpx.AsyncClient
    ) -> None:
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Host": "evil.example"},
        ):
            answer = await client.post("/predict", **file_form(tagged_png(TAG)), headers=headers)
            assert error_of(answer, 403)["code"] == "forbidden"
        same = {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
        answer = await client.post("/predict", **file_form(tagged_png(TAG)), headers=same)
        assert answer.status_code == 200
