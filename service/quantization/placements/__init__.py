"""Which operators run in INT8, runtime by runtime."""
