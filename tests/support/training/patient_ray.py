"""`hilum-train` for tests, with a local Ray node that may take as long as it needs to start.

Three limits of Ray 2.60 fail on a machine under heavy load. No setting changes the first two:

- `Node.__init__` waits 30 seconds for the node to register. Here it waits without a limit.
- The raylet waits 15 seconds for the files in which its agents write their ports, then aborts.
  Here the runtime environment agent is given its port, and the files of the dashboard agent, which
  is not used, exist beforehand with the port -1, which means none.
- Its other limits are environment variables, which `ENVIRONMENT` raises.

The test's own timeout ends a start that never succeeds.
"""

from __future__ import annotations

import inspect
import socket
import time
from importlib import import_module
from typing import Any, Final

_SECONDS: Final = "1800"
_MILLISECONDS: Final = "1800000"

ENVIRONMENT: Final = {
    "RAY_gcs_server_port_wait_time_s": _SECONDS,
    "RAY_gcs_server_request_timeout_seconds": _SECONDS,
    "RAY_gcs_rpc_server_connect_timeout_s": _SECONDS,
    "RAY_gcs_rpc_server_reconnect_timeout_s": _SECONDS,
    "RAY_py_gcs_connect_timeout_s": _SECONDS,
    "RAY_raylet_start_wait_time_s": _SECONDS,
    "RAY_agent_register_timeout_ms": _MILLISECONDS,
    "RAY_raylet_client_num_connect_attempts": _SECONDS,
    "RAY_worker_register_timeout_seconds": _SECONDS,
    "RAY_health_check_initial_delay_ms": _MILLISECONDS,
    "RAY_health_check_timeout_ms": _MILLISECONDS,
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": _SECONDS,
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": _SECONDS,
}
"""Limits of Ray on the start of its processes, raised to half an hour."""

_UNUSED_PORTS: Final = (
    "dashboard_agent_listen_port",
    "metrics_agent_port",
    "metrics_export_port",
)


def remove_start_limits() -> None:
    """Make Ray wait for its node's registration, and its raylet for no agent's port."""
    import_module("training.train.ray_launcher")  # first, because Ray reads settings at its import
    from ray._private import services
    from ray._private.parameter import RayParams
    from ray._raylet import persist_port

    get_node, start_raylet = services.get_node, services.start_raylet
    initialize = RayParams.__init__
    port = _find_free_port()

    def get_registered_node(*arguments: Any, **options: Any) -> dict[str, Any]:
        while True:
            try:
                node: dict[str, Any] = get_node(*arguments, **options)
            except RuntimeError:  # Ray's own: the node is not registered yet
                time.sleep(0.5)
            else:
                return node

    def start_raylet_with_ports(*arguments: Any, **options: Any) -> Any:
        known = inspect.signature(start_raylet).bind(*arguments, **options).arguments
        for name in _UNUSED_PORTS:
            persist_port(known["session_dir"], known["node_id"], name, -1)
        return start_raylet(*arguments, **options)

    def initialize_with_port(self: RayParams, *arguments: Any, **options: Any) -> None:
        initialize(self, *arguments, **{"runtime_env_agent_port": port, **options})

    services.get_node = get_registered_node
    services.start_raylet = start_raylet_with_ports
    RayParams.__init__ = initialize_with_port


def _find_free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    from training.cli.main import main

    remove_start_limits()
    main()
