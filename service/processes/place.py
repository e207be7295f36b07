"""Where one of the serving processes of a host stands among the others: its number, and its files in their folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from service.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Place:
    """`number` is 1 to `processes`; `folder` is the server's alone, and goes when it ends."""

    folder: Path
    number: int
    processes: int

    @classmethod
    def at(cls, path: Path, processes: int) -> Place:
        """From the command line. Raises InvalidInput for a path that `path` did not give."""
        if not (path.name.isdecimal() and 1 <= int(path.name) <= processes and path.parent.is_dir()):
            raise InvalidInput(f"--place is {str(path)!r}; leave it out, `octavo serve --processes N` sets it")
        return cls(path.parent, int(path.name), processes)

    @property
    def path(self) -> Path:
        """What the command line calls it."""
        return self.folder / str(self.number)

    @property
    def socket(self) -> Path:
        """What the process answers its siblings on."""
        return self.folder / f"{self.number}.sock"

    @property
    def take(self) -> Path:
        """Where others hand connections on to the process."""
        return self.folder / f"{self.number}.take"

    @property
    def connections(self) -> Path:
        """How many connections each of the processes has."""
        return self.folder / "connections"

    @property
    def figures(self) -> Path:
        """What the process counted, and what those that died in its place did."""
        return self.folder / f"{self.number}.json"

    @property
    def all(self) -> list[Place]:
        return [replace(self, number=number) for number in range(1, self.processes + 1)]

    def was_ready(self) -> bool:
        """Whether a process of this place has had every model loaded since the server started."""
        return self._mark.exists()

    def set_ready(self) -> None:
        self._mark.touch()

    @property
    def _mark(self) -> Path:
        return self.folder / f"{self.number}.ready"
