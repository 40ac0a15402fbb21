"""Export of trained weights: ONNX, OpenVINO's IR, INT8, f16 and compiled TensorRT engines."""
