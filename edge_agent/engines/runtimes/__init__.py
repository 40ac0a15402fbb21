"""One engine for each runtime (OpenVINO, ONNX Runtime, TensorRT), and what they share."""
