"""The Open Inference Protocol, whichever way it travels: heads, tensors, metadata, settings, traces. Knows no HTTP."""
