"""`hilum-edge serve`: run the agent until it is stopped."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from edge_agent.app.run import serve
from edge_agent.cli.exit_codes import report_errors
from edge_agent.cli.settings import settings_from_options


@report_errors
def serve_command(
    *, config: Path | None, port: int | None, http_port: int | None, bundle: Path | None
) -> int:
    """Answer over gRPC and HTTP until a signal stops the agent; return the exit status."""
    load = partial(settings_from_options, config, bundle, port=port, http_port=http_port)
    return asyncio.run(serve(load(), reload_settings=load))
