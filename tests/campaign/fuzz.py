"""Hostile bytes at a real agent, over both its faces: it never ends, and every answer is coded.

Hypothesis makes study images (DICOM, PNG, JPEG, TIFF), protobuf messages, multipart forms and
broken framing. Each must be answered with findings or with a code that says who must act; one that
means "nobody foresaw this" is a failure, and so is silence. In between a sound radiograph must get
the answer that it always got. What was answered wrongly is kept in runs/fuzz.

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
"""Longer than a decode worker may take before it is ended."""
CODES: Final = frozenset(map(str, ErrorCode)) - {ErrorCode.INTERNAL}
EVIDENCE: Final = Path("runs/fuzz")


class Wrong(Exception):
    """An answer that should not be."""


@dataclass
class Tally:
    """What came of the requests."""

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
    """One agent, asked in every way; raises Wrong where an answer is not as it must be."""

    def __init__(self, agent: LiveAgent, channel: grpc.Channel, http: httpx.Client) -> None:
        self.agent = agent
        self._http = http
        bytes_as_they_are = {"request_serializer": None, "response_deserializer": None}
        self._detect = channel.unary_unary("/hilum.v1.Detector/Detect", **bytes_as_they_are)
        self._stream = channel.stream_stream("/hilum.v1.Detector/DetectStream", **bytes_as_they_are)

    def send(self, case: Case) -> str:
        """Send it; the code, or `answered`."""
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
        """What both faces say about a sound radiograph."""
        message = pb.DetectRequest(image=image).SerializeToString()
        over_grpc = parse_findings(
            pb.DetectResponse.FromString(self._detect(message, timeout=TIMEOUT_S))
        )
        got = self._http.post("/predict", files={"file": ("x", image)})
        if got.status_code != httpx.codes.OK:
            raise Wrong(f"a sound radiograph was refused: {parse_http_failure(got)!r}")
        predictions = got.json()["predictions"]
        return over_grpc, tuple(
            (p["class"], p["confidence"], tuple(p["bbox"])) for p in predictions
        )

    def _message(self, face: str, body: bytes) -> str:
        try:
            if face == "detect":
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

    def _post(self, face: str, body: bytes, content_type: str) -> str:
        got = self._http.post(face, content=body, headers={"Content-Type": content_type})
        if got.status_code != httpx.codes.OK:
            if not 400 <= got.status_code < 600:
                raise Wrong(f"HTTP status {got.status_code}")
            return _coded(parse_http_failure(got))
        if face == "/render":
            if not got.content.startswith(b"\x89PNG"):
                raise Wrong("what was drawn is no PNG")
            return "answered"
        results = got.json()["results"] if face == "/predict/batch" else [{"result": got.json()}]
        ends = []
        for item in results:
            if item.get("error"):
                ends.append(_coded(RequestFailed(item["error"]["code"], str(item["status"]))))
            elif item["result"]["bundle_digest"]:
                ends.append("answered")
            else:
                raise Wrong("an answer that names no model")
        return ", ".join(sorted(set(ends)))

    def _wire(self, face: str, body: bytes) -> str:
        """Only that the connection ends, and an answer over HTTP is an answer."""
        address = self.agent.address if face == "grpc port" else self._http.base_url.netloc.decode()
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as wire:
            try:
                wire.sendall(body)
                wire.shutdown(socket.SHUT_WR)
                got = b"".join(iter(lambda: wire.recv(65536), b""))
            except ConnectionError:
                got = b""
        if face == "http port" and got and not got.startswith(b"HTTP/1.1 "):
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
        raise Wrong("an answer that names no model")
    return "answered"


def _coded(failed: RequestFailed, *, readable: bool = True) -> str:
    """The code of a failure, which must be one that is foreseen."""
    if not readable and not failed.code and failed.status == "INTERNAL":
        return "gRPC: not a message"  # grpcio's own answer; it never reaches our code.
    if failed.code not in CODES:
        raise Wrong(f"a failure without a code that is foreseen: {failed!r}")
    return failed.code


def campaign(
    *,
    rounds: int | None = None,
    seconds: float = 0.0,
    examples: int = ROUND,
    first_seed: int = 0,
    told: Callable[[str], None] = lambda _line: None,
) -> Tally:
    """Run it for a time or a number of rounds; `wrong` of what comes back must be empty."""
    tally = Tally()
    started = time.monotonic()
    with _target() as target:
        check = SoundCheck(target, tally)
        number = 0
        while number < rounds if rounds is not None else time.monotonic() < started + seconds:
            _round(target, check, tally, first_seed + number, examples)
            number += 1
            pids = process_tree(target.agent.process.pid)
            tally.most_memory_mb = max(tally.most_memory_mb, sum(map(memory_kb, pids)) / 1e3)
            told(f"{time.monotonic() - started:.0f} s, {tally.ends.total()} requests")
            if not target.agent.alive:
                tally.wrong.append(f"the agent ended: {list(target.agent.log)[-5:]}")
                break
        else:
            check.now()
            figures = target.agent.metrics()
            tally.workers_replaced = int(figures["hilum_decode_worker_restarts_total"])
            if target.agent.stop() != 0:
                tally.wrong.append("the agent did not end with 0 when told to")
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


class SoundCheck:
    """Asks for sound radiographs and remembers what is said about each."""

    def __init__(self, target: Target, tally: Tally) -> None:
        self._target = target
        self._tally = tally
        self._images = small_radiographs()
        self._expected = {name: target.sound(it)[0] for name, it in self._images.items()}

    def now(self) -> None:
        """One of them, over both faces; in turns."""
        name = sorted(self._images)[self._tally.sound % len(self._images)]
        try:
            answers = self._target.sound(self._images[name])
        except (Wrong, grpc.RpcError, httpx.HTTPError) as error:
            self._tally.wrong.append(f"a sound radiograph ({name}): {error!r}")
        else:
            for answer in answers:
                if not are_equal(answer, self._expected[name]):
                    self._tally.wrong.append(f"{name} was answered with {answer}")
        self._tally.sound += 1


def _round(target: Target, check: SoundCheck, tally: Tally, round_seed: int, examples: int) -> None:
    @seed(round_seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # A wrong answer is kept as it is and the campaign goes on.
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def send(case: Case) -> None:
        if not target.agent.alive:
            return
        begun = time.monotonic()
        try:
            end = target.send(case)
        except (Wrong, grpc.RpcError, httpx.HTTPError, OSError, ValueError, KeyError) as error:
            end = "WRONG"
            tally.wrong.append(f"{_kept(case)}: {error!r}")
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - begun)
        tally.ends[end] += 1
        tally.kinds[case.kind.partition(" ")[0] if case.layer == "image" else case.kind] += 1
        if tally.ends.total() % CHECK_EVERY == 0:
            check.now()

    send()


def _kept(case: Case) -> Path:
    """Where a request that was answered wrongly can be looked at."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    file = EVIDENCE / f"{hashlib.sha256(case.body).hexdigest()[:12]}.bin"
    file.write_bytes(case.body)
    facts: dict[str, Any] = {
        "what": case.layer, "kind": case.kind, "face": case.endpoint, "type": case.content_type,
    }  # fmt: skip
    file.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    return file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the long campaign and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    def told(line: str) -> None:
        print(f"\rfuzz: {line}", end="", file=sys.stderr, flush=True)

    tally = campaign(seconds=arguments.minutes * 60, first_seed=arguments.seed, told=told)
    print(
        f"\nfuzz: {tally.ends.total()} requests in {tally.seconds / 60:.1f} min: "
        f"{dict(tally.ends.most_common())}\n"
        f"  made of: {dict(tally.kinds.most_common())}\n"
        f"  sound radiographs in between: {tally.sound}, each over both faces; slowest request "
        f"{tally.slowest_s:.1f} s; workers replaced: {tally.workers_replaced}; memory at most "
        f"{tally.most_memory_mb:.0f} MB; log lines: {dict(tally.logged)}; "
        f"wrong: {len(tally.wrong)}"
    )
    for line in tally.wrong[:20]:
        print(" ", line)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
