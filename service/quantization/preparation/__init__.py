"""The inspect stage: the float graph that quantization starts from."""
