"""The least that gRPC costs: a server that receives a message and returns its length.

Run as `python -m tests.bench.echo` it prints its port. No agent in Python can add less to a
request than this server takes.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

METHOD = "/hilum.bench.Echo/Length"


@contextmanager
def echo_server() -> Iterator[str]:
    """The address of one in a process of its own, ended at the end."""
    command = [sys.executable, "-m", "tests.bench.echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


async def _serve() -> None:
    async def length(message: bytes, _context: Any) -> bytes:  # gRPC's own
        return b"%d" % len(message)

    _, service, method = METHOD.split("/")
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(length)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
