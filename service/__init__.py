"""Octavo: upload a model, quantize it, prove the engines on this host, and serve them."""

from __future__ import annotations

__version__ = "0.1.0"
