"""Services of an engine's process that import no library."""

from __future__ import annotations

import json
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread


def report(channel: Connection[bytes, bytes]) -> None:
    """Answer with the policies of all threads, of which one was started here, and with imports."""
    modules = sorted(sys.modules)
    may_end = Event()
    thread = Thread(target=may_end.wait)
    thread.start()
    threads = [int(each.name) for each in Path("/proc/self/task").iterdir()]
    answer = {
        "policies": [os.sched_getscheduler(each) for each in threads],
        "niceness": os.nice(0),
        "modules": modules,
    }
    may_end.set()
    thread.join()
    channel.send_bytes(json.dumps(answer).encode())
    channel.recv_bytes()


def answer_nonsense(channel: Connection[bytes, bytes]) -> None:
    """Answer with bytes that are no message."""
    channel.send_bytes(b"\xff{")
    channel.recv_bytes()


def compute(channel: Connection[bytes, bytes]) -> None:
    """Answer once a million numbers are added."""
    channel.send_bytes(json.dumps({"sum": sum(range(1_000_000))}).encode())
    channel.recv_bytes()
