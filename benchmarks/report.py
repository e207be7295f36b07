"""What one benchmark found: tables with goals, written as JSON with every round and as a Markdown summary."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.host import Host


@dataclass(frozen=True)
class Goal:
    """A figure that was promised: `holds` when `value` is at least (or, `at_most`, at most) `limit`."""

    figure: str
    value: float
    limit: float
    unit: str = ""
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def row(self) -> list[str]:
        bound = "at most" if self.at_most else "at least"
        verdict = "holds" if self.holds else "**missed**"
        return [self.figure, f"{self.value:.3g}{self.unit}", f"{bound} {self.limit:g}{self.unit}", verdict]


@dataclass
class Table:
    """A titled table of the summary."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def to_markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"## {self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


@dataclass
class Report:
    """`rounds` holds what was measured, unrounded, by name; the tables hold medians of it."""

    name: str
    title: str
    purpose: str
    goals: list[Goal] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rounds: dict[str, Any] = field(default_factory=dict)

    def to_markdown(self, host: Host, command: str) -> str:
        goals = Table("Goals", ["figure", "measured", "goal", ""], [goal.row() for goal in self.goals])
        tables = [goals, *self.tables] if self.goals else self.tables
        facts = Table("Host", ["", ""], [[name, value] for name, value in [*host.rows(), ("Command", f"`{command}`")]])
        parts = [f"# {self.title}\n", f"{self.purpose}\n", *(table.to_markdown() for table in tables)]
        if self.notes:
            parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n")
        return "\n".join([*parts, facts.to_markdown()])

    def write(self, folder: Path, host: Host, command: str) -> list[Path]:
        """Writes NAME.json and NAME.md into `folder`, each whole or not at all, and returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        goals = [vars(goal) | {"holds": goal.holds} for goal in self.goals]
        content = {
            "name": self.name,
            "command": command,
            "host": host.to_json(),
            "goals": goals,
            "notes": self.notes,
            "rounds": self.rounds,
        }
        texts = {".json": json.dumps(content, indent=1) + "\n", ".md": self.to_markdown(host, command)}
        paths = [folder / f"{self.name}{suffix}" for suffix in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(text)
            os.replace(partial, path)
        return paths
