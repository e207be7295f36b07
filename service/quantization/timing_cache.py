"""The name of the file that keeps what timing kernels on a GPU has shown, for whoever carries it without reading it."""

from __future__ import annotations

TIMING_CACHE = "timing.cache"
# Its place in a job's folder: the one runtime that times kernels when it builds.
TIMINGS = f"tensorrt/{TIMING_CACHE}"
