"""OpenVINO without its model converter, whose mere import writes to the home folder and sends usage data away."""

from __future__ import annotations

import sys

# The package goes on without a converter that cannot be imported; nothing here converts models.
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]

import openvino  # noqa: E402
import openvino.opset16 as opset  # noqa: E402
from openvino.frontend import FrontEndManager  # noqa: E402

__all__ = ["FrontEndManager", "openvino", "opset"]
