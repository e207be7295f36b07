"""The name and layout of the calibration file, for whoever carries it without reading it."""

from __future__ import annotations

CALIBRATION = "calibration.npz"
# Grows when the meaning of the file or of its histograms changes, so that no older one is taken for it.
LAYOUT = 1
