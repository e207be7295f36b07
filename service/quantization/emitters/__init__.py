"""From a plan to an ONNX graph for one runtime."""
