"""A router whose engines are fakes, one for each artifact digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event

from service.domain.engine import EngineArtifact
from service.engines.engine import Engine
from service.errors import EngineFailed
from tests.fake_engine import FakeEngine


@dataclass
class EngineShelf:
    """Loads fakes. `broken` digests fail; loads of `slow` digests wait for `gate`. The bias tells variants apart."""

    biases: dict[str, float] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    gate: Event = field(default_factory=Event)
    loading: Event = field(default_factory=Event)
    loads: list[str] = field(default_factory=list)
    engines: dict[str, FakeEngine] = field(default_factory=dict)

    def load(self, artifact: EngineArtifact) -> Engine:
        digest = artifact.sha256
        self.loads.append(digest)
        if digest in self.slow:
            self.loading.set()
            assert self.gate.wait(10), "the test never opened the gate"
        if digest in self.broken:
            raise EngineFailed(f"{digest} is broken")
        engine = FakeEngine()
        engine.bias = self.biases.get(digest, 0.0)
        self.engines[digest] = engine
        return engine
