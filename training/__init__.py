"""Training: from annotated studies to an INT8 bundle that carries its own proof."""

import os

import edge_agent as edge_agent  # first: it keeps OpenVINO and NNCF from reporting

# ultralytics would look for the internet when imported, and install packages that it misses.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
# Nothing is reported to the makers of libraries: docs/decisions/0051-no-vendor-telemetry.md.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
