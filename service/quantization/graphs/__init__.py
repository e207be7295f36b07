"""ONNX graphs read and checked, with nothing known of quantization but what Q/DQ nodes are."""
