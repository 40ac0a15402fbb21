"""The engines, one for each runtime (OpenVINO, ONNX Runtime, TensorRT), and shared helpers."""
