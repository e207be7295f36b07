"""A CPU with AVX2 and without VNNI on any x86 host: qemu's user mode, which runs one process and needs no rights.

Its vpmaddubsw clips each sum of two products to 16 bits, as hardware does. How fast it is says nothing of any CPU.
"""

from __future__ import annotations

import platform
import shutil

from benchmarks.errors import CannotMeasure

# What Linux would tell of the emulated CPU, as far as Octavo's plans depend on it.
CPU_FLAGS = ("avx2",)
# The last Intel microarchitecture before AVX-512, without what qemu would warn that it lacks.
_CPU = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm"
_PROGRAMS = ("qemu-x86_64", "qemu-x86_64-static")


def emulator() -> tuple[str, ...]:
    """The words to put before a command. Raises CannotMeasure, with the command that installs it, without it."""
    if platform.machine() != "x86_64":
        raise CannotMeasure(f"this host is {platform.machine()}; the emulated process needs an x86_64 Python")
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        raise CannotMeasure("there is no qemu-x86_64; install it with: apt-get install qemu-user")
    return (program, "-cpu", _CPU)
