"""The conformance kit: every row of the Open Inference Protocol v2 over REST, checked against any server."""

from __future__ import annotations

from tests.contract.oip.kit import binary, infer, random_bodies, repository, server
from tests.contract.oip.kit.rows import ROWS, Row, Verdict, judged
from tests.contract.oip.kit.target import NotOffered, Target
from tests.contract.oip.kit.vectors import vector_rows

# Each of these enters its rows when it is imported.
CHECKS = (server, infer, binary, repository, random_bodies)


def all_rows() -> list[Row]:
    """Every row, in the order of the protocol's sections, golden vectors last."""
    return [*sorted(ROWS, key=lambda row: row.section), *vector_rows()]


__all__ = ["CHECKS", "NotOffered", "Row", "Target", "Verdict", "all_rows", "judged"]
