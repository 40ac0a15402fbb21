"""The Python client of the edge agent: detects findings on radiographs over gRPC.

    from hilum.client import Client

    with Client("127.0.0.1:50051") as client:
        result = client.detect("chest.dcm")
        for finding in result.findings:
            print(finding.name, finding.score, finding.box)

`AsyncClient` is the same for asyncio. A call returns a `Result` or raises a `DetectError`: a failed
call is never a result without findings. Research use only.
"""

from hilum.client.aio import AsyncClient
from hilum.client.connection import Tls
from hilum.client.errors import DetectError
from hilum.client.request import ImageSource, Priority
from hilum.client.results import (
    Box,
    Finding,
    ImageFacts,
    ImageWarning,
    Model,
    ModelFinding,
    Result,
    Spacing,
    Timings,
)
from hilum.client.retry import Clock, Retry
from hilum.client.sync import Client
from hilum.codes import ClientErrorCode, ErrorCode, WarningCode

__all__ = [
    "AsyncClient",
    "Box",
    "Client",
    "ClientErrorCode",
    "Clock",
    "DetectError",
    "ErrorCode",
    "Finding",
    "ImageFacts",
    "ImageSource",
    "ImageWarning",
    "Model",
    "ModelFinding",
    "Priority",
    "Result",
    "Retry",
    "Spacing",
    "Timings",
    "Tls",
    "WarningCode",
]
