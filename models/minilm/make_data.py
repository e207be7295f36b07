"""Writes calibration.npz and validation.npz: sentences from Python's own documentation strings, as tokens.

Run as `python -m models.minilm.make_data`. No module gives sentences to both files and no sentence occurs twice. It
refuses to write fewer rows than asked for, and downloads nothing.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.minilm.tokens import tokenize

ROWS = {"calibration": 256, "validation": 512}
# Folders of the library that hold no documentation of its own, or none in English sentences.
SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "__pycache__"}
)
FEWEST_WORDS, MOST_WORDS = 5, 60
_SENTENCE = re.compile(r"[A-Z][^.!?]+[.!?](?=\s|$)")


def find_sources() -> list[Path]:
    """Returns the modules of the running Python's standard library, in order of name."""
    library = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in library.rglob("*.py") if SKIPPED.isdisjoint(path.relative_to(library).parts))


def read_sentences(source: Path) -> Iterator[str]:
    """Yields the plain sentences of a module's documentation strings: words alone, no code and no lists."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for paragraph in (inspect.cleandoc(ast.get_docstring(node) or "")).split("\n\n"):
            for sentence in _SENTENCE.findall(" ".join(paragraph.split())):
                if FEWEST_WORDS <= len(sentence.split()) <= MOST_WORDS and not re.search(r"[>=<{}\[\]|\\_]", sentence):
                    yield sentence


def split_of(source: Path) -> str:
    """Which file a module's sentences go to, by a hash of its name: a third to calibration."""
    digest = hashlib.sha256(source.name.encode()).digest()
    return "calibration" if digest[0] % 3 == 0 else "validation"


def choose_sentences(seed: int) -> dict[str, list[str]]:
    """Returns the sentences of both files; raises ValueError where the library has too few."""
    found: dict[str, set[str]] = {split: set() for split in ROWS}
    for source in find_sources():
        found[split_of(source)].update(read_sentences(source))
    found["validation"] -= found["calibration"]
    chosen = {}
    for split, rows in ROWS.items():
        if len(found[split]) < rows:
            raise ValueError(f"the standard library has {len(found[split])} sentences for {split}; {rows} are needed")
        chosen[split] = random.Random(seed).sample(sorted(found[split]), rows)
    return chosen


def main() -> None:
    """Reads the command line and prints the files written."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "build"
    parser.add_argument("--output", type=Path, default=default, help="folder to write into")
    parser.add_argument("--seed", type=int, default=20, help="seed of the choice of sentences")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for split, sentences in choose_sentences(arguments.seed).items():
        path = arguments.output / f"{split}.npz"
        rows = tokenize(sentences)
        np.savez_compressed(path, input_ids=rows["input_ids"], attention_mask=rows["attention_mask"])
        print(f"{path}: {len(sentences)} sentences, for example {sentences[0]!r}")


if __name__ == "__main__":
    main()
