"""`hilum-train` for tests, with a local Ray node that may take as long as it needs to start.

Ray gives up on its own node after 30 seconds. The limit is a constant in `Node.__init__` of Ray
2.60, which no setting changes, and a machine under heavy load needs longer. Ray's other limits are
environment variables: `ENVIRONMENT` raises those that bear on a start.
"""

from __future__ import annotations

import time
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


def wait_for_nodes() -> None:
    """Make Ray wait for a node's registration until its caller ends this process."""
    from ray._private import services

    get_node = services.get_node

    def get_registered_node(*arguments: Any, **options: Any) -> dict[str, Any]:
        while True:
            try:
                node: dict[str, Any] = get_node(*arguments, **options)
            except RuntimeError:  # Ray's own: the node is not registered yet
                time.sleep(0.5)
            else:
                return node

    services.get_node = get_registered_node


if __name__ == "__main__":
    from training.cli.main import main

    wait_for_nodes()
    main()
