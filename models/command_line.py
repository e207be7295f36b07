"""The command line of scripts that write several models, each to a folder of its name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path


def write_each(about: str, known: Collection[str], write: Callable[[str, Path], Path], build: Path) -> int:
    """Has `write(name, folder)` write those that the command line names, or all. It gives the model's path.

    0: all were written; 1: some could not be, and stderr says why.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of them (default all)")
    parser.add_argument("--output", type=Path, default=build, help="default: %(default)s")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    failed = 0
    for name in arguments.names or known:
        try:
            path = write(name, arguments.output / name)
        except Exception as error:  # noqa: BLE001 (told, and the next is tried)
            failed += 1
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        else:
            print(f"{name}: {path.stat().st_size / 2**20:.1f} MiB")
    return 1 if failed else 0
