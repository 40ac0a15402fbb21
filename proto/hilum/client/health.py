"""The part of `grpc.health.v1` that a client needs, without another dependency.

HealthCheckRequest is one string and HealthCheckResponse one enumeration, each as field 1. On the
wire they equal protobuf's own StringValue and Int32Value, so the package grpcio-health-checking is
not needed.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

WATCH: Final = "/grpc.health.v1.Health/Watch"
# The empty service name means the agent as a whole.
WHOLE_AGENT: Final = StringValue()
SERVING: Final = 1

__all__ = ["SERVING", "WATCH", "WHOLE_AGENT", "Int32Value", "StringValue"]
