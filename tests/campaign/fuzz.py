"""Send hostile bytes to a real agent over both transports: no crash, and every failure has a code.

Hypothesis generates study images (DICOM, PNG, JPEG, TIFF), protobuf messages, multipart forms and
broken framing. Each must be answered with findings or with a documented error code; the code of an
unexpected error is a failure, and so is no response. In between, a valid radiograph must always get
the same result. Requests with a wrong response are kept in runs/fuzz.

    python -m tests.campaign.fuzz --minutes 10
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, Phase, given, seed, settings

from edge_agent.system.processes import memory_kb, process_tree
from hilum.codes import ErrorCode
from hilum.v1 import detection_pb2 as pb
from tests.support.agents.live import LiveAgent, live_agent
from tests.support.images.known import (
    DetectedFindings,
    RequestFailed,
    are_equal,
    parse_findings,
    parse_grpc_failure,
    parse_http_failure,
)
from tests.support.images.strategies import Case, cases, small_radiographs

ROUND: Final = 200
CHECK_EVERY: Final = 20
TIMEOUT_S: Final = 40.0
"""Longer than a decode worker may take before it is killed."""
CODES: Final = frozenset(map(str, ErrorCode)) - {ErrorCode.INTERNAL}
EVIDENCE: Final = Path("runs/fuzz")


class Wrong(Exception):
    """A response that violates the contract."""


@dataclass
class Tally:
    """Counts of the requests' outcomes, and what was wrong."""

    ends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sound: int = 0
    slowest_s: float = 0.0
    most_memory_mb: float = 0.0
    workers_replaced: int = 0
    logged: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Target:
    """An agent and its endpoints; raises Wrong if a response violates the contract."""

    def __init__(self, agent: LiveAgent, channel: grpc.Channel, http: httpx.Client) -> None:
        self.agent = agent
        self._http = http
        bytes_as_they_are = {"request_serializer": None, "response_deserializer": None}
        self._detect = channel.unary_unary("/hilum.v1.Detector/Detect", **bytes_as_they_are)
        self._stream = channel.stream_stream("/hilum.v1.Detector/DetectStream", **bytes_as_they_are)

    def send(self, case: Case) -> str:
        """Send a case; return the error code, or `answered`."""
        match case.layer:
            case "message":
                return self._message(case.endpoint, case.body)
            case "form":
                return self._post(case.endpoint, case.body, case.content_type)
            case "wire":
                return self._wire(case.endpoint, case.body)
            case _ if case.endpoint.startswith("/"):
                name = "files" if case.endpoint == "/predict/batch" else "file"
                request = self._http.build_request(
                    "POST", case.endpoint, files={name: ("image", case.body)}
                )
                return self._post(case.endpoint, request.read(), request.headers["content-type"])
            case _:
                message = pb.DetectRequest(request_id="fuzz", image=case.body)
                return self._message(case.endpoint, message.SerializeToString())

    def sound(self, image: bytes) -> tuple[DetectedFindings, DetectedFindings]:
        """Return the findings of a valid radiograph over both transports."""
        message = pb.DetectRequest(image=image).SerializeToString()
        over_grpc = parse_findings(
            pb.DetectResponse.FromString(self._detect(message, timeout=TIMEOUT_S))
        )
        got = self._http.post("/predict", files={"file": ("x", image)})
        if got.status_code != httpx.codes.OK:
            raise Wrong(f"a valid radiograph was refused: {parse_http_failure(got)!r}")
        predictions = got.json()["predictions"]
        return over_grpc, tuple(
            (p["class"], p["confidence"], tuple(p["bbox"])) for p in predictions
        )

    def _message(self, endpoint: str, body: bytes) -> str:
        try:
            if endpoint == "detect":
                response = pb.DetectResponse.FromString(self._detect(body, timeout=TIMEOUT_S))
                return _answered(response)
            answers = list(self._stream(iter([body]), timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            return _coded(parse_grpc_failure(error), readable=_readable(body))
        if len(answers) != 1:
            raise Wrong(f"a stream of one message brought {len(answers)} answers")
        outcome = pb.DetectStreamResponse.FromString(answers[0])
        if outcome.WhichOneof("outcome") == "response":
            return _answered(outcome.response)
        return _coded(RequestFailed(outcome.error.code, "in the stream"))

    def _post(self, endpoint: str, body: bytes, content_type: str) -> str:
        got = self._http.post(endpoint, content=body, headers={"Content-Type": content_type})
        if got.status_code != httpx.codes.OK:
            if not 400 <= got.status_code < 600:
                raise Wrong(f"HTTP status {got.status_code}")
            return _coded(parse_http_failure(got))
        if endpoint == "/render":
            if not got.content.startswith(b"\x89PNG"):
                raise Wrong("the rendered image is no PNG")
            return "answered"
        results = (
            got.json()["results"] if endpoint == "/predict/batch" else [{"result": got.json()}]
        )
        ends = []
        for item in results:
            if item.get("error"):
                ends.append(_coded(RequestFailed(item["error"]["code"], str(item["status"]))))
            elif item["result"]["bundle_digest"]:
                ends.append("answered")
            else:
                raise Wrong("a response without a bundle digest")
        return ", ".join(sorted(set(ends)))

    def _wire(self, endpoint: str, body: bytes) -> str:
        """Check that the connection ends, and that a response over HTTP is one."""
        address = (
            self.agent.address if endpoint == "grpc port" else self._http.base_url.netloc.decode()
        )
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as wire:
            try:
                wire.sendall(body)
                wire.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda: wire.recv(65536), b""))
            except ConnectionError:
                got = b""
        if endpoint == "http port" and got and not got.startswith(b"HTTP/1.1 "):
            raise Wrong(f"no HTTP: {got[:60]!r}")
        return "connection ended"


def _readable(message: bytes) -> bool:
    try:
        pb.DetectRequest.FromString(message)
    except DecodeError:
        return False
    return True


def _answered(response: pb.DetectResponse) -> str:
    if not response.bundle_digest:
        raise Wrong("a response without a bundle digest")
    return "answered"


def _coded(failed: RequestFailed, *, readable: bool = True) -> str:
    """Return the code of a failure, which must be a documented one."""
    if not readable and not failed.code and failed.status == "INTERNAL":
        return "gRPC: not a message"  # grpcio's own response.
    if failed.code not in CODES:
        raise Wrong(f"a failure without a documented code: {failed!r}")
    return failed.code


def campaign(
    *,
    rounds: int | None = None,
    seconds: float = 0.0,
    examples: int = ROUND,
    first_seed: int = 0,
    on_progress: Callable[[str], None] = lambda _line: None,
) -> Tally:
    """Run for a time or a number of rounds; `wrong` of the returned tally must be empty."""
    tally = Tally()
    started = time.monotonic()
    with _target() as target:
        check = ValidCheck(target, tally)
        number = 0
        while number < rounds if rounds is not None else time.monotonic() < started + seconds:
            _round(target, check, tally, first_seed + number, examples)
            number += 1
            pids = process_tree(target.agent.process.pid)
            tally.most_memory_mb = max(tally.most_memory_mb, sum(map(memory_kb, pids)) / 1e3)
            on_progress(f"{time.monotonic() - started:.0f} s, {tally.ends.total()} requests")
            if not target.agent.alive:
                tally.wrong.append(f"the agent ended: {list(target.agent.log)[-5:]}")
                break
        else:
            check.check_next()
            figures = target.agent.metrics()
            tally.workers_replaced = int(figures["hilum_decode_worker_restarts_total"])
            if target.agent.stop() != 0:
                tally.wrong.append("the agent did not exit with 0 when stopped")
        tally.logged = target.agent.logged
    tally.wrong += [f"logged: {line}" for line in tally.logged if "unexpectedly" in line]
    tally.seconds = time.monotonic() - started
    return tally


@contextmanager
def _target() -> Iterator[Target]:
    with (
        live_agent() as agent,
        grpc.insecure_channel(agent.address, [("grpc.max_send_message_length", -1)]) as channel,
        httpx.Client(base_url=agent.page, timeout=TIMEOUT_S) as http,
    ):
        yield Target(agent, channel, http)


class ValidCheck:
    """Sends valid radiographs and compares the findings with the first ones."""

    def __init__(self, target: Target, tally: Tally) -> None:
        self._target = target
        self._tally = tally
        self._images = small_radiographs()
        self._expected = {name: target.sound(it)[0] for name, it in self._images.items()}

    def check_next(self) -> None:
        """Send the next radiograph over both transports."""
        name = sorted(self._images)[self._tally.sound % len(self._images)]
        try:
            answers = self._target.sound(self._images[name])
        except (Wrong, grpc.RpcError, httpx.HTTPError) as error:
            self._tally.wrong.append(f"a valid radiograph ({name}): {error!r}")
        else:
            for answer in answers:
                if not are_equal(answer, self._expected[name]):
                    self._tally.wrong.append(f"{name} was answered with {answer}")
        self._tally.sound += 1


def _round(target: Target, check: ValidCheck, tally: Tally, round_seed: int, examples: int) -> None:
    @seed(round_seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # A wrong response is kept unshrunk and the campaign goes on.
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def send(case: Case) -> None:
        if not target.agent.alive:
            return
        start = time.monotonic()
        try:
            end = target.send(case)
        except (Wrong, grpc.RpcError, httpx.HTTPError, OSError, ValueError, KeyError) as error:
            end = "WRONG"
            tally.wrong.append(f"{_store_evidence(case)}: {error!r}")
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - start)
        tally.ends[end] += 1
        tally.kinds[case.kind.partition(" ")[0] if case.layer == "image" else case.kind] += 1
        if tally.ends.total() % CHECK_EVERY == 0:
            check.check_next()

    send()


def _store_evidence(case: Case) -> Path:
    """Store a request with a wrong response; return its path."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    file = EVIDENCE / f"{hashlib.sha256(case.body).hexdigest()[:12]}.bin"
    file.write_bytes(case.body)
    facts: dict[str, Any] = {
        "what": case.layer, "kind": case.kind, "endpoint": case.endpoint, "type": case.content_type,
    }  # fmt: skip
    file.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    return file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and print its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    def on_progress(line: str) -> None:
        print(f"\rfuzz: {line}", end="", file=sys.stderr, flush=True)

    tally = campaign(
        seconds=arguments.minutes * 60, first_seed=arguments.seed, on_progress=on_progress
    )
    print(
        f"\nfuzz: {tally.ends.total()} requests in {tally.seconds / 60:.1f} min: "
        f"{dict(tally.ends.most_common())}\n"
        f"  made of: {dict(tally.kinds.most_common())}\n"
        f"  valid radiographs in between: {tally.sound}, over both transports; slowest request "
        f"{tally.slowest_s:.1f} s; workers replaced: {tally.workers_replaced}; memory at most "
        f"{tally.most_memory_mb:.0f} MB; log lines: {dict(tally.logged)}; "
        f"wrong: {len(tally.wrong)}"
    )
    for line in tally.wrong[:20]:
        print(" ", line)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
