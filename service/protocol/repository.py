"""The model repository: its index, and what load and unload may be told. Refuses files and configurations."""

from __future__ import annotations

from typing import Any

from service.errors import InvalidInput, Unsupported
from service.protocol.model_loading import ModelLoading

INSTEAD = "upload a version with POST /models and choose it with PUT /models/{name}/deployment"


async def repository_index(loading: ModelLoading, only_ready: bool) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line._asdict().items() if value}
        for line in await loading.index(only_ready=only_ready)
    ]


def refuse_overrides(parameters: dict[str, Any]) -> None:
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise Unsupported(f"load with {name[:80]!r} is not offered: a model is loaded as it is deployed; {INSTEAD}")
    _refuse_unknown(parameters, set())


def check_unload(parameters: dict[str, Any]) -> None:
    # No model depends on another here, so either value is obeyed.
    flag(parameters, "unload_dependents")
    _refuse_unknown(parameters, {"unload_dependents"})


def _refuse_unknown(parameters: dict[str, Any], known: set[str]) -> None:
    for name in parameters.keys() - known:
        raise InvalidInput(f"parameter {name[:80]!r} is unknown; leave it out")


def flag(values: dict[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name!r} is {value!r:.80}; send true, false, or leave it out")
    return value
