"""The machine and the libraries that a figure was measured on. A figure without them says nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

# Instruction sets that decide how fast FP32 and INT8 kernels run.
_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimd",
    "asimddp", "i8mm",
)  # fmt: skip
_PACKAGES = ("onnxruntime", "openvino", "numpy", "octavo", "uvicorn", "uvloop", "fastapi")


@dataclass(frozen=True)
class Host:
    """`load_average` is that of the last minute before the run: what else kept the cores busy."""

    cpu: str
    cpu_flags: str
    cores: int
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    date: str
    load_average: float

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each property, for a table."""
        return [
            ("CPU", f"{self.cpu}, {self.cores} cores visible, {self.memory_gib:g} GiB of memory"),
            ("Instruction sets", self.cpu_flags),
            ("System", self.system),
            ("Python", self.python),
            ("Packages", ", ".join(f"{name} {version}" for name, version in self.packages.items())),
            ("Date", self.date),
            ("Load average before the run", f"{self.load_average:.2f} (one minute)"),
        ]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def describe_host() -> Host:
    """Reads the host from /proc and the installed packages; what cannot be read is "unknown"."""
    fields = _cpu_fields()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Host(
        cpu=_cpu_name(fields),
        cpu_flags=" ".join(flag for flag in _FLAGS if flag in flags) or "unknown",
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30, 1),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        load_average=os.getloadavg()[0],
    )


def _cpu_name(fields: dict[str, str]) -> str:
    """A virtual machine may hide the model's name; family and model still tell the microarchitecture."""
    name = fields.get("model name") or platform.processor() or "unknown"
    numbers = [f"{key.removeprefix('cpu ')} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _cpu_fields() -> dict[str, str]:
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _version(package: str) -> str | None:
    if package == "octavo":
        from service import __version__

        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
