"""The edge agent: detection in chest radiographs on a machine at the site. Research use only."""

import os
import sys

# Nothing leaves the site, so the runtimes must not send telemetry to their vendors. This is set
# here because it must precede every import of theirs, in every process of the agent.
# `import openvino` sends an event to Google Analytics from a forked child of the agent. OpenVINO
# and NNCF work without the package that does so; None makes it impossible to import.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# ONNX Runtime (1.29 and later) would send the model's and the hardware's properties to Microsoft.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
