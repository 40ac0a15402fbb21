"""The edge agent: chest X-ray detection on a box inside the hospital. Research use only."""

import os
import sys

# Nothing leaves the site, so the runtimes must not report to their makers. This stands here
# because it must come before any import of theirs, in every process of ours.
# `import openvino` would tell Google Analytics, through a forked child of the agent; where this
# module cannot be imported, OpenVINO and NNCF do without.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # "not to be imported"
# ONNX Runtime (1.29 and later) would send what it runs, and on what, to Microsoft.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
