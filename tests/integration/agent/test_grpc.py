"""The gRPC API of a real agent in this process, over a real connection."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from edge_agent.app.agent import Agent
from edge_agent.config import Settings
from edge_agent.decoding.decoder import Decoder
from edge_agent.engines.base import Pixels
from edge_agent.errors import EngineFailed
from edge_agent.serving.detection import DetectionService
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.tagged import (
    SIDE,
    LatchedPipeline,
    eventually,
    fake_pipeline,
    hilum_error,
    open_channel,
    open_detector,
    running_agent,
    settings,
    tag_of,
    tagged_png,
)
from tests.support.engines.fake_engine import FakeEngine


def request(tag: int, request_id: str | None = None, **options: float) -> pb.DetectRequest:
    return pb.DetectRequest(
        request_id=str(tag) if request_id is None else request_id,
        image=tagged_png(tag),
        options=pb.DetectOptions(**options),
    )


async def refused(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, pb.Error]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), hilum_error(caught.value)


async def test_detect_returns_the_findings() -> None:
    async with running_agent(settings()) as agent, open_detector(agent) as detector:
        response = await detector.Detect(request(200))
        assert tag_of(response) == 200
        assert response.request_id == "200"
        without_id = await detector.Detect(request(200, request_id=""))
        assert 0 < len(without_id.request_id) <= 128


async def test_a_real_radiograph_is_answered(rg1: bytes) -> None:
    async with running_agent(settings()) as agent, open_detector(agent) as detector:
        response = await detector.Detect(pb.DetectRequest(image=rg1))
    assert (response.image.rows, response.image.columns) == (1955, 1841)
    assert response.image.format == "dicom"
    assert response.image.view == "PA"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (pb.DetectRequest(request_id="r"), "empty_file"),
        (pb.DetectRequest(request_id="r", image=b"MZ not an image at all"), "not_an_image"),
        (request(200, request_id="x" * 129), "invalid_request"),
        (request(200, score_threshold=0), "invalid_request"),
        (request(200, score_threshold=-1), "invalid_request"),
        (request(200, score_threshold=1.5), "invalid_request"),
        (request(200, score_threshold=float("nan")), "invalid_request"),
        (request(200, score_threshold=float("inf")), "invalid_request"),
    ],
)
async def test_a_refusal_has_a_code(wrong: pb.DetectRequest, code: str) -> None:
    async with running_agent(settings()) as agent, open_detector(agent) as detector:
        status, error = await refused(detector.Detect(wrong))
        assert status is grpc.StatusCode.INVALID_ARGUMENT
        assert error.code == code
        assert error.message
        assert error.hint
        assert tag_of(await detector.Detect(request(200))) == 200


async def test_a_full_queue_refuses_at_once() -> None:
    latched = LatchedPipeline()
    few = settings(limits={"queue_size": 1})
    async with running_agent(few, latched) as agent, open_detector(agent) as detector:
        first = detector.Detect(request(150))
        await latched.latch.wait_for_arrival(150)
        status, error = await refused(detector.Detect(request(151)))
        assert (status, error.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert not first.done()
        latched.latch.release(150)
        assert tag_of(await first) == 150


async def test_a_cancelled_call_leaves_the_queue() -> None:
    latched = LatchedPipeline()
    few = settings(limits={"queue_size": 2})
    async with running_agent(few, latched) as agent, open_detector(agent) as detector:
        first = detector.Detect(request(150))
        await latched.latch.wait_for_arrival(150)
        second = detector.Detect(request(151))
        await eventually(lambda: latched.in_flight == 2)
        second.cancel()
        await eventually(lambda: latched.in_flight == 1)
        third = detector.Detect(request(152))
        latched.latch.release(150, 152)
        assert [tag_of(await call) for call in (first, third)] == [150, 152]
        assert not latched.latch.has_arrived(151)


async def test_a_deadline_ends_the_wait_and_the_request_leaves_the_queue() -> None:
    latched = LatchedPipeline()
    async with running_agent(settings(), latched) as agent, open_detector(agent) as detector:
        first = detector.Detect(request(150))
        await latched.latch.wait_for_arrival(150)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await detector.Detect(request(151), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: latched.in_flight == 1)
        latched.latch.release(150)
        assert tag_of(await first) == 150
        assert not latched.latch.has_arrived(151)


@pytest.mark.parametrize(
    ("raised", "code"),
    [(EngineFailed("lost its way"), "engine_failed"), (KeyError("Doe^Jane"), "internal")],
)
async def test_a_failure_of_the_agent_has_a_code_and_no_details(
    raised: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(batch: Pixels) -> None:
        raise raised

    def load(settings: Settings, decoder: Decoder) -> DetectionService:
        return fake_pipeline(settings, decoder, FakeEngine(SIDE, SIDE, before=broken))

    async with running_agent(settings(), load) as agent, open_detector(agent) as detector:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await detector.Detect(request(200))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert hilum_error(caught.value).code == code
    assert "Doe" not in (caught.value.details() or "")
    (record,) = [r for r in caplog.records if r.name.startswith("edge_agent")]
    assert record.levelname == "ERROR"
    assert "Doe" not in caplog.text


async def test_an_oversized_message_is_refused_and_the_connection_stays_open() -> None:
    small = settings(limits={"max_image_bytes": 1 << 20})
    async with running_agent(small) as agent, open_detector(agent) as detector:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await detector.Detect(pb.DetectRequest(image=bytes(2 << 20)))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (caught.value.details() or "")
        assert tag_of(await detector.Detect(request(200))) == 200


async def test_get_model_describes_the_model_in_use() -> None:
    async with running_agent(settings()) as agent, open_detector(agent) as detector:
        model = await detector.GetModel(pb.GetModelRequest())
    assert (model.name, model.engine, model.compute_device) == ("toy", "fake", "memory")
    assert (model.input_height, model.input_width) == (SIDE, SIDE)
    assert len(model.findings) == 14


async def test_reflection_lists_the_services() -> None:
    async with running_agent(settings()) as agent, open_channel(agent) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        list_services = reflection_pb2.ServerReflectionRequest(list_services="")
        calls = reflection.ServerReflectionInfo(iter([list_services]))
        (answer,) = [answer async for answer in calls]
    names = {service.name for service in answer.list_services_response.service}
    assert {"hilum.v1.Detector", "grpc.health.v1.Health"} <= names


async def test_requests_before_the_model_is_loaded_get_not_ready() -> None:
    agent = Agent(settings(), fake_pipeline)
    await agent.start()
    try:
        async with open_detector(agent) as detector:
            for call in (detector.Detect(request(200)), detector.GetModel(pb.GetModelRequest())):
                status, error = await refused(call)
                assert (status, error.code) == (grpc.StatusCode.UNAVAILABLE, "not_ready")
    finally:
        assert await agent.stop()


# Streams


async def test_a_stream_sends_responses_as_they_finish_with_their_ids() -> None:
    latched = LatchedPipeline(parallel_requests=3)
    async with running_agent(settings(), latched) as agent, open_detector(agent) as detector:
        stream = detector.DetectStream()
        for tag in (150, 151, 152):
            await stream.write(request(tag))
        for tag in (150, 151, 152):
            await latched.latch.wait_for_arrival(tag)
        for tag in (152, 150, 151):
            latched.latch.release(tag)
            answer = await stream.read()
            assert answer.request_id == str(tag)
            assert tag_of(answer.response) == tag
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_stream_continues_after_refusals() -> None:
    async def requests() -> AsyncIterator[pb.DetectRequest]:
        yield request(150, "good 1")
        yield pb.DetectRequest(request_id="empty")
        yield pb.DetectRequest(request_id="no image", image=b"x" * 500)
        yield request(151, "")
        yield request(152, "x" * 129)
        yield request(153, "nan", score_threshold=float("nan"))
        yield request(154, "good 2")

    async with running_agent(settings()) as agent, open_detector(agent) as detector:
        responses = {
            answer.request_id: answer async for answer in detector.DetectStream(requests())
        }
    assert tag_of(responses.pop("good 1").response) == 150
    assert tag_of(responses.pop("good 2").response) == 154
    assert {name[:8]: answer.error.code for name, answer in responses.items()} == {
        "empty": "empty_file",
        "no image": "not_an_image",
        "": "invalid_request",
        "x" * 8: "invalid_request",
        "nan": "invalid_request",
    }


async def test_an_id_cannot_be_used_twice_at_a_time() -> None:
    latched = LatchedPipeline()
    async with running_agent(settings(), latched) as agent, open_detector(agent) as detector:
        stream = detector.DetectStream()
        await stream.write(request(150, "a"))
        await latched.latch.wait_for_arrival(150)
        await stream.write(request(151, "a"))
        repeated = await stream.read()
        assert (repeated.request_id, repeated.error.code) == ("a", "invalid_request")
        latched.latch.release(150, 152)
        assert tag_of((await stream.read()).response) == 150
        await stream.write(request(152, "a"))
        assert tag_of((await stream.read()).response) == 152
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_a_stream_reads_no_more_than_its_concurrency() -> None:
    latched = LatchedPipeline()
    narrow = settings(grpc={"stream_concurrency": 2})
    async with running_agent(narrow, latched) as agent, open_detector(agent) as detector:
        stream = detector.DetectStream()
        sending = asyncio.create_task(_send(stream, range(150, 158)))
        # Either of the first two may be decoded first and be the one in the engine.
        await eventually(lambda: latched.in_flight == 2)
        other = detector.Detect(request(200))
        await eventually(lambda: latched.in_flight == 3)
        latched.latch.release(*range(150, 158), 200)
        assert tag_of(await other) == 200
        seen = {(await stream.read()).request_id for _ in range(8)}
        assert seen == {str(tag) for tag in range(150, 158)}
        await sending


async def _send(stream: grpc.aio.StreamStreamCall, tags: range) -> None:
    for tag in tags:
        await stream.write(request(tag))
    await stream.done_writing()


async def test_overload_on_a_stream_is_an_error_of_the_item() -> None:
    latched = LatchedPipeline()
    few = settings(limits={"queue_size": 1})
    async with running_agent(few, latched) as agent, open_detector(agent) as detector:
        stream = detector.DetectStream()
        await stream.write(request(150))
        await latched.latch.wait_for_arrival(150)
        await stream.write(request(151))
        answer = await stream.read()
        assert (answer.request_id, answer.error.code) == ("151", "overloaded")
        latched.latch.release(150)
        assert tag_of((await stream.read()).response) == 150


async def test_the_requests_of_a_cancelled_stream_leave_the_queue() -> None:
    latched = LatchedPipeline()
    async with running_agent(settings(), latched) as agent, open_detector(agent) as detector:
        stream = detector.DetectStream()
        await stream.write(request(150))
        await latched.latch.wait_for_arrival(150)
        for tag in (151, 152):
            await stream.write(request(tag))
        await eventually(lambda: latched.in_flight == 3)
        stream.cancel()
        await eventually(lambda: latched.in_flight == 1)  # The engine finishes what it has started.
        latched.latch.release(150)
        await eventually(lambda: latched.in_flight == 0)
        latched.latch.release(200)
        assert tag_of(await detector.Detect(request(200))) == 200
        assert not latched.latch.has_arrived(151)


NO_MESSAGE = b"\x0a\xff"  # Field 1 with an incomplete length.


@pytest.mark.parametrize("method", ["/hilum.v1.Detector/Detect", "/grpc.health.v1.Health/Check"])
async def test_a_malformed_message_is_refused_with_a_code(method: str) -> None:
    async with running_agent(settings()) as agent, open_channel(agent) as channel:
        code, error = await refused(channel.unary_unary(method)(NO_MESSAGE))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.code == "invalid_request"


async def test_a_malformed_message_on_a_stream_affects_no_other() -> None:
    async with running_agent(settings()) as agent, open_channel(agent) as channel:
        stream = channel.stream_stream("/hilum.v1.Detector/DetectStream")
        sent = [NO_MESSAGE, request(200).SerializeToString(), NO_MESSAGE]
        answers = [
            pb.DetectStreamResponse.FromString(it) async for it in stream(iter(sent), timeout=60)
        ]
    refusals = [it.error.code for it in answers if it.WhichOneof("outcome") == "error"]
    assert refusals == ["invalid_request"] * 2
    assert [tag_of(it.response) for it in answers if it.request_id] == [200]


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Return a frame of HTTP/2 (RFC 9113, section 4.1)."""
    head = struct.pack(">I", len(body))[1:] + bytes([kind, flags])
    return head + struct.pack(">I", stream) + body


def _header(name: bytes, value: bytes) -> bytes:
    """Return a literal header field without indexing (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


async def test_a_method_name_that_is_not_text_does_not_close_the_port() -> None:
    """In grpcio 1.84 to 1.85 it ended the server, even before authentication."""
    headers = b"\x83\x86" + _header(b":path", b"/\xff") + _header(b":authority", b"localhost")
    headers += _header(b"content-type", b"application/grpc") + _header(b"te", b"trailers")
    async with running_agent(settings()) as agent:
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0))
        writer.write(_frame(1, 4, 1, headers) + _frame(0, 1, 1, bytes(5)))
        while reset_or_headers := await reader.readexactly(9):
            await reader.readexactly(int.from_bytes(reset_or_headers[:3]))
            if reset_or_headers[3] in {1, 3} and reset_or_headers[5:] == b"\0\0\0\1":
                break
        writer.close()
        async with open_detector(agent) as detector:
            assert tag_of(await detector.Detect(request(200))) == 200
