"""The body that sets how a model's requests wait and share batches. Refuses what contradicts itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from service.api.schemas_requests import WHOLE, RequestBody, shown_as
from service.domain.batching import (
    MAX_DELAY_SECONDS,
    MAX_PRIORITY_LEVELS,
    MAX_ROWS,
    MAX_TIMEOUT_SECONDS,
    Batching,
)

_MAX_SIZES = 64
_MAX_INPUTS = 1024
_MAX_LENGTH = 2**20
_Rows = Annotated[int, Field(ge=1, le=MAX_ROWS), WHOLE]
_Length = Annotated[int, Field(ge=1, le=_MAX_LENGTH), WHOLE]


class PaddingBody(RequestBody):
    """Requests whose variable dimensions are all of one length are padded at the end to the next bucket."""

    buckets: Annotated[list[_Length], Field(min_length=1, max_length=_MAX_SIZES, description="Lengths, rising.")]
    values: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=255)], Annotated[float, Field(ge=-1e30, le=1e30)]],
        Field(
            default_factory=dict,
            max_length=_MAX_INPUTS,
            description="What is appended, by input; 0 for one that is not named.",
        ),
    ]

    @model_validator(mode="after")
    def _rising(self) -> PaddingBody:
        if any(second <= first for first, second in pairwise(self.buckets)):
            raise ValueError(f"buckets {self.buckets} must rise; send each length once, the smallest first")
        return self


class BatchingBody(RequestBody):
    """Every field has a default, and null leaves it to the server's settings."""

    model_config = shown_as({"preferred_batch_rows": [8, 16], "batch_delay_seconds": 0.002, "timeout_seconds": 0.5})

    max_batch_rows: Annotated[
        _Rows | None, Field(description="Rows in one batch and one request at most; what the engine takes bounds it.")
    ] = None
    preferred_batch_rows: Annotated[
        list[_Rows],
        Field(
            default_factory=list,
            max_length=_MAX_SIZES,
            description="Sizes that a batch starts with, without more delay.",
        ),
    ]
    batch_delay_seconds: Annotated[
        float | None,
        Field(ge=0, le=MAX_DELAY_SECONDS, description="Longest wait for a batch to fill, from a request's arrival."),
    ] = None
    max_queue_rows: Annotated[_Rows | None, Field(description="Rows that may wait.")] = None
    timeout_seconds: Annotated[
        float | None,
        Field(gt=0, le=MAX_TIMEOUT_SECONDS, description="Longest that a request may take; its own may be shorter."),
    ] = None
    priority_levels: Annotated[
        int, Field(ge=0, le=MAX_PRIORITY_LEVELS, description="Levels of priority, 1 first; 0 for none."), WHOLE
    ] = 0
    default_priority: Annotated[
        int, Field(ge=0, le=MAX_PRIORITY_LEVELS, description="Level of a request that names none."), WHOLE
    ] = 0
    padding: PaddingBody | None = None

    @model_validator(mode="after")
    def _consistent(self) -> BatchingBody:
        sizes, levels, default = self.preferred_batch_rows, self.priority_levels, self.default_priority
        if any(second <= first for first, second in pairwise(sizes)):
            raise ValueError(f"preferred_batch_rows {sizes} must rise; send each size once, the smallest first")
        if self.max_batch_rows is not None and sizes and sizes[-1] > self.max_batch_rows:
            raise ValueError(
                f"preferred_batch_rows {sizes} exceed max_batch_rows {self.max_batch_rows}; leave them out"
            )
        if bool(levels) != bool(default) or default > levels:
            raise ValueError(
                f"default_priority {default} is none of {levels} priority_levels; send 1 to {levels}"
                if levels
                else f"default_priority {default} has no priority_levels; send both, or neither"
            )
        return self

    def to_domain(self) -> Batching:
        return Batching.from_json(self.model_dump())

    @staticmethod
    def of(batching: Batching) -> BatchingBody:
        return BatchingBody.model_validate(batching.to_json())
