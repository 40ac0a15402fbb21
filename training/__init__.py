"""Training: from annotated studies to an INT8 bundle that carries its own proof."""

import os

import edge_agent as edge_agent  # first: it keeps OpenVINO and NNCF from reporting

# ultralytics would look for the internet when imported, and install packages that it misses.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
