"""`make demo`: send a real radiograph to a real agent over gRPC, in one command.

The demo starts `hilum-edge serve`, waits until its health service reports SERVING, sends a
radiograph, prints the findings, and leaves the agent running until Ctrl-C.
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
from edge_agent.cli.batch import render_overlay
from edge_agent.config import GrpcSettings, HttpSettings, format_address
from edge_agent.core.findings import Box, Finding
from edge_agent.errors import HilumError
from edge_agent.imaging import Limits
from edge_agent.serving.grpc import converters
from edge_agent.serving.grpc.servicer import SERVICE
from hilum.v1 import detection_pb2 as pb
from hilum.v1 import detection_pb2_grpc

OUTPUT: Final = Path("out/demo")
START_TIMEOUT_S: Final = 300.0  # The first start measures the engines.
DETECT_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0


class DemoFailed(Exception):
    """The demo cannot continue; the message says why."""


def main() -> None:
    """Run the demo. The exit status is 0 if findings were received and written."""
    parser = argparse.ArgumentParser(prog="python -m edge_agent.cli.demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop the agent after one radiograph")
    once = parser.parse_args().once
    console = Console(highlight=False, emoji=False)
    # Either signal ends the agent first. SIGINT needs a handler too, because a shell makes a
    # process that it starts in the background ignore it.
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
    """Run the demo.

    Args:
        console: for messages.
        once: stop the agent after one radiograph.

    Raises:
        DemoFailed: the radiograph is missing, or the agent does not start or answer.
    """
    radiograph = find_sample_radiograph()
    create_output_folder()
    port = choose_port(console, GrpcSettings().host, GrpcSettings().port)
    http_port = choose_port(console, HttpSettings().host, HttpSettings().port)
    address = format_address(GrpcSettings().host, port)
    page = f"http://{format_address(HttpSettings().host, http_port)}/"
    console.print(f"Starting an edge agent on {address} ...")
    with running_agent(port, http_port) as agent:
        with grpc.insecure_channel(address) as channel:
            wait_until_serving(channel, agent)
            console.print(
                f"The agent is SERVING. Sending {escape(radiograph.name)}, a real chest X-ray.\n"
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
        print_next_steps(console, address, page, radiograph)
        wait_for_interrupt(agent)


def print_next_steps(console: Console, address: str, page: str, radiograph: Path) -> None:
    """Print how to use the agent, which keeps running.

    Args:
        console: where it is printed.
        address: the agent's gRPC address.
        page: the URL of its page.
        radiograph: a file to try.
    """
    python = escape(sys.executable)
    code = f"from hilum.client import Client; print(Client('{address}').detect('{radiograph}'))"
    console.print(
        f"\nThe agent keeps running at {address} until Ctrl-C.\n"
        f"Open {page} in a browser and drop an X-ray on it; or in another terminal, try\n"
        f'  {python} -c "{escape(code)}"\n'
        f"  {python} -m edge_agent.cli.main detect --help",
        soft_wrap=True,
    )


def find_sample_radiograph() -> Path:
    """Return `RG1_UNCI.dcm` of the package pydicom-data: a PA chest with several round masses.

    Raises:
        DemoFailed: the package is not installed.
    """
    spec = find_spec("data_store")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        file = Path(folder) / "data" / "RG1_UNCI.dcm"
        if file.is_file():
            return file
    raise DemoFailed("The package pydicom-data is not installed: run `make demo`.")


def choose_port(console: Console, host: str, default: int) -> int:
    """Return the default port, or a free one if that is in use.

    Args:
        console: for messages.
        host: the address that is listened on.
        default: the port to prefer.

    Raises:
        DemoFailed: there is no free port.
    """
    for port in (default, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                console.print(f"Port {port} is in use, so this agent gets another one.")
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed("No free port on this machine.")


@contextmanager
def running_agent(port: int, http_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `hilum-edge serve` in a process, which is ended on leaving."""
    ports = ["--port", str(port), "--http-port", str(http_port)]
    command = [sys.executable, "-m", "edge_agent.cli.main", "serve", *ports]
    # An audit log has one writer, and another agent may be running on this machine.
    state = {"HILUM_EDGE__STATE_DIR": str((OUTPUT / "state").absolute())}
    agent = subprocess.Popen(  # noqa: S603  # this interpreter and module
        command,
        env=os.environ | state,
        start_new_session=True,  # Ctrl-C must end the demo, which then ends the agent.
    )
    try:
        yield agent
    finally:
        if agent.poll() is None:
            agent.terminate()
        try:
            agent.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def wait_until_serving(channel: grpc.Channel, agent: subprocess.Popen[bytes]) -> None:
    """Watch the agent's health until it serves.

    Raises:
        DemoFailed: the agent ended, or did not serve in time.
    """
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    deadline = time.monotonic() + START_TIMEOUT_S
    while agent.poll() is None and time.monotonic() < deadline:
        # Each watch is short, so that the end of the agent is noticed soon.
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
        f"The agent did not serve within {START_TIMEOUT_S:.0f} s."
        if status is None
        else f"The agent ended with status {status}; see its last lines above."
    )


def detect(channel: grpc.Channel, image: bytes) -> pb.DetectResponse:
    """Send one study image.

    Raises:
        DemoFailed: the agent refused the image or could not be reached.
    """
    stub = detection_pb2_grpc.DetectorStub(channel)
    try:
        response: pb.DetectResponse = stub.Detect(
            pb.DetectRequest(request_id="demo", image=image), timeout=DETECT_TIMEOUT_S
        )
    except grpc.RpcError as error:
        raise DemoFailed(f"The agent returned no findings: {error.details()}") from None
    return response


def print_timings(console: Console, response: pb.DetectResponse) -> None:
    """Print the time spent on each stage, and the model that was used."""
    timings = response.timings
    console.print(
        f"Decoded in {timings.decode_ms:.0f} ms, inferred in {timings.infer_ms:.0f} ms, "
        f"{timings.total_ms:.0f} ms in all, by {response.engine} "
        f"(bundle {response.bundle_digest[:12]}). Research use only.\n",
        soft_wrap=True,
    )


def create_output_folder() -> None:
    """Create the folder that the demo writes to.

    Raises:
        DemoFailed: it cannot be created.
    """
    try:
        OUTPUT.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoFailed(f"{OUTPUT} cannot be written: {error.strerror}.") from None


def write_results(image: bytes, response: pb.DetectResponse) -> tuple[Path, Path]:
    """Write the overlay and the response.

    Returns:
        Their paths.

    Raises:
        DemoFailed: they cannot be written.
    """
    findings = [
        Finding(f.index, f.score, Box(f.box.x_min, f.box.y_min, f.box.x_max, f.box.y_max))
        for f in response.findings
    ]
    overlay, result = OUTPUT / "overlay.png", OUTPUT / "result.json"
    try:
        overlay.write_bytes(render_overlay(image, findings, Limits()))
        result.write_text(
            json.dumps(converters.to_json(response), indent=2) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise DemoFailed(f"{OUTPUT} cannot be written: {error.strerror}.") from None
    except HilumError as error:
        raise DemoFailed(error.message) from None
    return overlay, result


def stop(agent: subprocess.Popen[bytes]) -> None:
    """Stop the agent after the requests in flight.

    Raises:
        DemoFailed: it did not end, or with an error status.
    """
    agent.terminate()
    try:
        status = agent.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DemoFailed("The agent did not stop on SIGTERM.") from None
    if status:
        raise DemoFailed(f"The agent ended with status {status}.")


def wait_for_interrupt(agent: subprocess.Popen[bytes]) -> None:
    """Wait for Ctrl-C or SIGTERM, then stop the agent.

    Raises:
        DemoFailed: the agent ended before.
    """
    try:
        status = agent.wait()
    except KeyboardInterrupt:
        stop(agent)
        return
    raise DemoFailed(f"The agent ended with status {status}.")


if __name__ == "__main__":
    main()
