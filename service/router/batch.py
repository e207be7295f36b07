"""One batch: requests whose rows are joined for one run of the engine, and split again. Refuses a wrong row count."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import inf, prod
from typing import Any

import numpy as np

from service.domain.inference import Array
from service.engines.engine import Engine
from service.errors import DeviceFailed, EngineFailed, OctavoError
from service.router.answer import Answer
from service.router.route import Route

_log = logging.getLogger(__name__)
Outputs = dict[str, Array]
# Shorter inputs are joined sooner than looked at.
_VIEWED_BYTES = 64 * 1024


@dataclass(slots=True, eq=False)
class Pending:
    """One admitted request: `key` tells which others it may share a batch with.

    Its answer must be on its way by `deadline`, to be there `timeout` seconds after it was queued. `level` 0 goes
    first. `cut` takes from its outputs what answers its padding.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] | None
    rows: int
    key: object
    route: Route
    answer: Answer
    priority: int = 0
    cut: Callable[[Outputs], Outputs] | None = None
    queued_at: float = 0.0
    timeout: float = inf
    deadline: float = inf
    level: int = 0


@dataclass(slots=True, eq=False)
class Batch:
    """The members, and after the run one outcome for each: its outputs, or why it failed; `whole` where none did."""

    members: Sequence[Pending]
    rows: int
    started_at: float = 0.0
    seconds: float = 0.0
    outcomes: Sequence[Outputs | OctavoError] = ()
    whole: bool = False


@dataclass(slots=True, eq=False)
class BatchRunner:
    """Runs batches on one engine, one at a time. The joined inputs live in buffers that every batch reuses."""

    engine: Engine
    max_rows: int
    clock: Callable[[], float]
    _buffers: dict[str, Array] = field(default_factory=dict)

    def run(self, batch: Batch) -> None:
        """Fills `outcomes`, `started_at` and `seconds`; never raises for a failing engine.

        Where a joined batch fails, each member is run alone once, so that only a bad one fails; not on a lost device.
        """
        batch.members = members = _in_memory_order(batch.members)
        batch.started_at = self.clock()
        try:
            batch.outcomes = self._run_together(members, batch.rows)
            batch.whole = True
        except DeviceFailed as error:
            batch.outcomes = [_untraced(error)] * len(members)
        except OctavoError as error:
            batch.outcomes = [_untraced(error)] if len(members) == 1 else [self._run_alone(each) for each in members]
        batch.seconds = self.clock() - batch.started_at

    def _run_alone(self, member: Pending) -> Outputs | OctavoError:
        try:
            return self._run_together([member], member.rows)[0]
        except OctavoError as error:
            return _untraced(error)

    def _run_together(self, members: Sequence[Pending], rows: int) -> list[Outputs]:
        try:
            return self._run_and_split(members, rows)
        except OctavoError:
            raise
        except Exception as error:
            # Joining and splitting too: memory runs out there as well, and what escaped would end the thread.
            _log.error("a batch could not be run", exc_info=error)
            raise EngineFailed(f"the engine failed on this batch: {type(error).__name__}: {error}") from error

    def _run_and_split(self, members: Sequence[Pending], rows: int) -> list[Outputs]:
        first = members[0]
        inputs = self._joined(members, rows) if len(members) > 1 else _aligned(first.inputs)
        answer = self.engine.infer(inputs, first.outputs)
        if self.max_rows:
            _check_rows(answer, rows)
        if len(members) == 1:
            return [answer]
        return _split(_owned(answer, inputs), members)

    def _joined(self, members: Sequence[Pending], rows: int) -> Outputs:
        joined: Outputs = {}
        for name, array in members[0].inputs.items():
            parts = [member.inputs[name] for member in members]
            if array.nbytes >= _VIEWED_BYTES and (whole := _viewed(parts, rows)) is not None:
                joined[name] = whole
                continue
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape[1:] != array.shape[1:] or buffer.dtype != array.dtype:
                buffer = np.empty((self.max_rows, *array.shape[1:]), array.dtype)
                self._buffers[name] = buffer
            joined[name] = np.concatenate(parts, out=buffer[:rows])
        return joined


def _untraced(error: OctavoError) -> OctavoError:
    """The error without its traceback and cause: frames there hold the members, whose answers will hold the error."""
    return copy(error)


def _in_memory_order(members: Sequence[Pending]) -> Sequence[Pending]:
    """Bodies that were read side by side may be whole in another order."""
    if len(members) > 1:
        for name, array in members[0].inputs.items():
            if array.nbytes >= _VIEWED_BYTES:
                return sorted(members, key=lambda member: _address(member.inputs[name]))
    return members


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _viewed(parts: Sequence[Array], rows: int) -> Array | None:
    """The parts as the one array that they are in memory, each where the one before ends; None where they are not.

    Good for as long as all of the parts are kept.
    """
    end = None
    for part in parts:
        start = _address(part)
        if (end is not None and start != end) or not (part.flags.c_contiguous and part.flags.aligned):
            return None
        end = start + part.nbytes
    # Flat, for the strides of axes of length 1 may be anything.
    flat, shape = parts[0].reshape(-1), (rows, *parts[0].shape[1:])
    whole = np.lib.stride_tricks.as_strided(flat, (prod(shape),), flat.strides, writeable=False)
    return whole.reshape(shape)


def _aligned(inputs: Mapping[str, Array]) -> Outputs:
    """Arrays that view a request's body may begin at any byte, where kernels want whole elements."""
    return {name: array if array.flags.aligned else array.copy() for name, array in inputs.items()}


def _check_rows(answer: Outputs, rows: int) -> None:
    for name, array in answer.items():
        if array.shape[:1] != (rows,):
            raise EngineFailed(
                f"the engine answered shape {list(array.shape)} of {name!r} to {rows} rows; check the model"
            )


def _owned(answer: Outputs, inputs: Mapping[str, Any]) -> Outputs:
    """An output that is an input passed through must not change with the next batch in the same buffer."""
    for name, array in answer.items():
        if any(np.may_share_memory(array, given) for given in inputs.values()):
            answer[name] = array.copy()
    return answer


def _split(answer: Outputs, members: Sequence[Pending]) -> list[Outputs]:
    parts: list[Outputs] = []
    start = 0
    for member in members:
        end = start + member.rows
        parts.append({name: array[start:end] for name, array in answer.items()})
        start = end
    return parts
