"""Holds a server to the protocol: `python -m tests.contract.oip --url http://127.0.0.1:8000 --model digits`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import httpx

from tests.contract.oip.kit import Target, all_rows, judged
from tests.contract.oip.kit.vectors import FOLDER, sent


def main() -> int:
    arguments = _arguments()
    headers = {"Accept-Encoding": "identity"}
    with httpx.Client(base_url=arguments.url, timeout=60, headers=headers) as client:
        target = Target(client, arguments.model, dict(arguments.shape))
        if arguments.record:
            return _record(target)
        words: Counter[str] = Counter()
        rows = [row for row in all_rows() if arguments.only in row.name]
        for verdict in judged(rows, target):
            words[verdict.word] += 1
            reason = f"\n      {verdict.reason}" if verdict.reason else ""
            print(f"{verdict.word}  {verdict.row.name}{reason}", flush=True)
    print(", ".join(f"{number} {word}" for word, number in sorted(words.items())))
    return 1 if words["FAIL"] or not words["PASS"] else 0


def _record(target: Target) -> int:
    """Writes this server's answers beside the requests; look at the difference before committing it."""
    for request in sorted(FOLDER.glob("*.request")):
        request.with_suffix(".response").write_bytes(sent(target, request.read_bytes()))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.contract.oip", description=__doc__)
    parser.add_argument("--url", required=True, help="where the server listens, with a base path if it has one")
    parser.add_argument(
        "--model", required=True, help="a ready model; the golden vectors want models/digits/digits.onnx"
    )
    parser.add_argument("--shape", action="append", default=[], type=_shape, help="INPUT:1,3,224,224 for open axes")
    parser.add_argument("--only", default="", help="rows whose name holds this text, such as b4")
    parser.add_argument("--record", action="store_true", help=f"write the answers to {Path(FOLDER.name)} instead")
    return parser.parse_args()


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, extents = text.rpartition(":")
    return name, tuple(int(extent) for extent in extents.split(","))


if __name__ == "__main__":
    sys.exit(main())
