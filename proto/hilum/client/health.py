"""`grpc.health.v1` as far as a client needs it, without another dependency.

HealthCheckRequest is one string, HealthCheckResponse one enumeration, each as field 1: on the wire
the same as protobuf's own StringValue and Int32Value. The package grpcio-health-checking would
bring nothing else to a clinic's program.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

WATCH: Final = "/grpc.health.v1.Health/Watch"
# The empty service name asks for the agent as a whole.
WHOLE_AGENT: Final = StringValue()
SERVING: Final = 1

__all__ = ["SERVING", "WATCH", "WHOLE_AGENT", "Int32Value", "StringValue"]
