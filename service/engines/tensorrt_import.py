"""TensorRT under whichever name it is installed: the data-centre package first, then TensorRT-RTX. One Python API."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from service.errors import Unsupported

_MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


def tensorrt_module() -> ModuleType:
    """The module. Raises Unsupported where none is installed, or its libraries cannot be loaded."""
    return _found()[1]


def tensorrt_flavour() -> tuple[str, str]:
    """Name, `tensorrt` or `tensorrt_rtx`, and version. Raises Unsupported as `tensorrt_module` does."""
    name, module = _found()
    return name.removesuffix("_bindings"), str(module.__version__)


def _found() -> tuple[str, ModuleType]:
    failure = ""
    for name in _MODULES:
        if find_spec(name) is None:
            continue
        try:
            return name, import_module(name)
        except (ImportError, OSError) as error:
            failure = f" ({name}: {error})"
    raise Unsupported(
        f"TensorRT cannot be imported{failure}; install it with: pip install 'octavo[gpu]', or "
        "pip install tensorrt-rtx-cu13"
    )
