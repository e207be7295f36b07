"""The report's sections about the build itself: by what, for which GPUs, its memory, its layers, what was said."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from service.quantization.report.tables import card, details, mebibytes, soft, table

_WEIGHTS = {
    "fixed": "in the plan",
    "refittable": "in the plan, and can be changed",
    "stripped": "beside the plan in the engine's file, put into it when it is loaded",
}


def build_card(build: dict[str, Any]) -> str:
    """Nothing where the runtime compiles when it loads an engine, and so has nothing to tell."""
    if not build:
        return ""
    lines = build["log"]["lines"]
    batch = build["batch"]
    rows = [
        ("built by", f"{build['flavour']} {build['version']}"),
        ("for compute capability", ", ".join(build["built_for"]) or "unknown"),
        ("batch sizes", f"{batch['min']} to {batch['max']}, best at {batch['opt']}"),
        ("weights", _WEIGHTS[build.get("weights", "fixed")]),
        ("operators with 2:4 sparse weights", str(len(build.get("sparse_operators", ())))),
        ("seconds", f"{build['seconds']:.1f}"),
        *((f"MiB of {name.removesuffix('_bytes')}", mebibytes(size)) for name, size in build["memory"].items()),
        ("MiB of scratch at most", mebibytes(build["workspace_bytes"])),
        ("layers before and after compiling", f"{len(build['network'])}, {len(build['log']['layers'])}"),
        ("types of the network", _counted(Counter(layer["type"] for layer in build["network"]))),
        ("lines of log", ", ".join(f"{count} {name}" for name, count in lines.items())),
    ]
    told = ["The file runs on every GPU of these compute capabilities."] if build["portable"] else []
    if build.get("sparse_operators") and build["flavour"] == "tensorrt_rtx":
        told.append("TensorRT-RTX multiplies sparse weights like any others: pruning gains nothing there.")
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in build["log"]["warnings"])
    notes = (soft(" ".join(told)) if told else "") + (f"<ul>{warnings}</ul>" if warnings else "")
    return card("Build", table(("", ""), rows) + notes)


def build_details(build: dict[str, Any]) -> tuple[str, ...]:
    """The layers of the network and of the engine, and how to build it by hand."""
    if not build:
        return ()
    network = [(layer["name"], layer["kind"], layer["type"]) for layer in build["network"]]
    compiled = [
        (layer["name"], layer["kind"], " ".join(layer["reads"]), " ".join(layer["makes"]), ", ".join(layer["origins"]))
        for layer in build["log"]["layers"]
    ]
    return (
        details(f"{len(network)} layers of the network", table(("layer", "kind", "type"), network)),
        details(f"{len(compiled)} layers of the engine", table(("layer", "kind", "reads", "makes", "from"), compiled)),
        details("Build it by hand", f"<pre>{escape(build['reproduce'])}</pre>"),
    )


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
