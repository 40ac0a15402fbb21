"""`make demo`: a real radiograph through a real agent, over gRPC, in one command.

Starts `hilum-edge serve`, waits until its health service says SERVING, sends one radiograph, shows
what came back and leaves the agent running until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.markup import escape

from edge_agent.cli import output
from edge_agent.cli.batch import overlay_png
from edge_agent.config import GrpcSettings, HttpSettings, format_address
from edge_agent.core.findings import Box, Finding
from edge_agent.errors import HilumError
from edge_agent.imaging import Limits
from edge_agent.serving.grpc import converters
from edge_agent.serving.grpc.servicer import SERVICE
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc

OUT: Final = Path("out/demo")
READY_WITHIN_S: Final = 300.0  # The first start measures the engines.
ANSWER_WITHIN_S: Final = 60.0
STOP_WITHIN_S: Final = 30.0


class DemoFailed(Exception):
    """The demo cannot go on; its message says why, for a stranger."""


def main() -> None:
    """Run the demo; exits with 0 if an answer came and was written."""
    parser = argparse.ArgumentParser(prog="python -m edge_agent.cli.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop the agent and end")
    once = parser.parse_args().once
    console = Console(highlight=False, emoji=False)
    # Told to end by either signal, the agent is ended first; also where a shell has started the
    # demo in the background and made it deaf to SIGINT.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.default_int_handler)
    try:
        run(console, once=once)
    except DemoFailed as error:
        Console(stderr=True, highlight=False, emoji=False).print(
            f"[bold red]error[/bold red] {error}"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def run(console: Console, *, once: bool) -> None:
    """The demo itself.

    Raises:
        DemoFailed: the file, the agent or the answer is not there.
    """
    radiograph = sample_radiograph()
    make_folder()
    port = free_port(console, GrpcSettings().host, GrpcSettings().port)
    http_port = free_port(console, HttpSettings().host, HttpSettings().port)
    address = format_address(GrpcSettings().host, port)
    page = f"http://{format_address(HttpSettings().host, http_port)}/"
    console.print(f"Starting an edge agent on {address} ...")
    with running_agent(port, http_port) as agent:
        with grpc.insecure_channel(address) as channel:
            wait_until_serving(channel, agent)
            console.print(
                f"It is SERVING. Sending {escape(radiograph.name)}, a real chest X-ray.\n"
            )
            image = radiograph.read_bytes()
            response = detect(channel, image)
        output.print_response(console, radiograph.name, response)
        print_timings(console, response)
        for path in write_results(image, response):
            console.print(f"Written: {path}")
        if once:
            stop(agent)
            return
        say_what_next(console, address, page, radiograph)
        stay(agent)


def say_what_next(console: Console, address: str, page: str, radiograph: Path) -> None:
    """How to ask the agent that stays up."""
    python = escape(sys.executable)
    ask = f"from hilum.client import Client; print(Client('{address}').detect('{radiograph}'))"
    console.print(
        f"\nThe agent stays up at {address} until Ctrl-C.\n"
        f"Open {page} in a browser and drop an X-ray on it; or in another terminal, try\n"
        f'  {python} -c "{escape(ask)}"\n'
        f"  {python} -m edge_agent.cli.main detect --help",
        soft_wrap=True,
    )


def sample_radiograph() -> Path:
    """`RG1_UNCI.dcm` of the package pydicom-data: a PA chest with several round masses."""
    spec = find_spec("data_store")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        file = Path(folder) / "data" / "RG1_UNCI.dcm"
        if file.is_file():
            return file
    raise DemoFailed("The package pydicom-data is not installed: run `make demo`.")


def free_port(console: Console, host: str, usual: int) -> int:
    """The usual port, or if it is taken a free one."""
    for port in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                console.print(f"Port {port} is taken, so this agent gets another one.")
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed("No free port on this machine.")


@contextmanager
def running_agent(port: int, http_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`hilum-edge serve` as its own process; ended whatever happens."""
    ports = ["--port", str(port), "--http-port", str(http_port)]
    command = [sys.executable, "-m", "edge_agent.cli.main", "serve", *ports]
    # An audit log has one writer: another agent on this machine keeps its own.
    state = {"HILUM_EDGE__STATE_DIR": str((OUT / "state").absolute())}
    agent = subprocess.Popen(  # noqa: S603  # our own interpreter and module
        command,
        env=os.environ | state,
        start_new_session=True,  # Ctrl-C is ours to pass on.
    )
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.terminate()
        try:
            agent.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def wait_until_serving(channel: grpc.Channel, agent: subprocess.Popen[bytes]) -> None:
    """Watch the agent's health until it serves.

    Raises:
        DemoFailed: it ended, or did not serve in time.
    """
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    give_up = time.monotonic() + READY_WITHIN_S
    while agent.poll() is None and time.monotonic() < give_up:
        # Short watches, so that an agent that ends at once is noticed at once.
        watch = health.Watch(request, timeout=1, wait_for_ready=True)
        try:
            for state in watch:
                if state.status == health_pb2.HealthCheckResponse.SERVING:
                    watch.cancel()
                    return
        except grpc.RpcError:
            continue
    status = agent.poll()
    raise DemoFailed(
        f"The agent did not serve within {READY_WITHIN_S:.0f} s."
        if status is None
        else f"The agent ended with status {status}; its last lines above say why."
    )


def detect(channel: grpc.Channel, image: bytes) -> pb.DetectResponse:
    """Send one study image.

    Raises:
        DemoFailed: the agent refused it or could not be reached.
    """
    stub = detection_pb2_grpc.DetectorStub(channel)
    try:
        response: pb.DetectResponse = stub.Detect(
            pb.DetectRequest(request_id="demo", image=image), timeout=ANSWER_WITHIN_S
        )
    except grpc.RpcError as error:
        raise DemoFailed(f"The agent gave no answer: {error.details()}") from None
    return response


def print_timings(console: Console, response: pb.DetectResponse) -> None:
    """Where the time went, and which model answered."""
    timings = response.timings
    console.print(
        f"Decoded in {timings.decode_ms:.0f} ms, inferred in {timings.infer_ms:.0f} ms, "
        f"{timings.total_ms:.0f} ms in all, by {response.engine} "
        f"(bundle {response.bundle_digest[:12]}). Research use only.\n",
        soft_wrap=True,
    )


def make_folder() -> None:
    """Where the demo writes.

    Raises:
        DemoFailed: it cannot be made.
    """
    try:
        OUT.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoFailed(f"{OUT} cannot be written: {error.strerror}.") from None


def write_results(image: bytes, response: pb.DetectResponse) -> tuple[Path, Path]:
    """The overlay and the answer as files.

    Raises:
        DemoFailed: they cannot be written.
    """
    findings = [
        Finding(f.index, f.score, Box(f.box.x_min, f.box.y_min, f.box.x_max, f.box.y_max))
        for f in response.findings
    ]
    overlay, result = OUT / "overlay.png", OUT / "result.json"
    try:
        overlay.write_bytes(overlay_png(image, findings, Limits()))
        result.write_text(
            json.dumps(converters.as_json(response), indent=2) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise DemoFailed(f"{OUT} cannot be written: {error.strerror}.") from None
    except HilumError as error:
        raise DemoFailed(error.message) from None
    return overlay, result


def stop(agent: subprocess.Popen[bytes]) -> None:
    """Ask the agent to finish and end.

    Raises:
        DemoFailed: it did not end well.
    """
    agent.terminate()
    try:
        status = agent.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        raise DemoFailed("The agent did not stop when it was told to.") from None
    if status:
        raise DemoFailed(f"The agent ended with status {status}.")


def stay(agent: subprocess.Popen[bytes]) -> None:
    """Until Ctrl-C, SIGTERM, or the agent's own end.

    Raises:
        DemoFailed: the agent ended by itself.
    """
    try:
        status = agent.wait()
    except KeyboardInterrupt:
        stop(agent)
        return
    raise DemoFailed(f"The agent ended by itself with status {status}.")


if __name__ == "__main__":
    main()
