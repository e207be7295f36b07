"""Names of the files that outlive their job in the store, for whoever carries them without reading them."""

from __future__ import annotations

# What calibration has seen of a model on some rows.
CALIBRATION = "calibration.npz"
# Grows when the meaning of that file or of its histograms changes, or which tensors of a graph it tells of, so that no
# older one is taken for it.
LAYOUT = 2
# What timing kernels on a GPU has shown, and its place in a job's folder: the one runtime that times when it builds.
TIMING_CACHE = "timing.cache"
TIMINGS = f"tensorrt/{TIMING_CACHE}"
# What a GPU runtime compiled while it validated: the first load takes it.
RUNTIME_CACHE = "runtime.cache"
