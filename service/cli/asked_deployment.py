"""Whether what is deployed is what a quantize command asked for, and the command that makes it so."""

from __future__ import annotations

import shlex

from service.cli.client import Document
from service.domain.recipe import CANARY_WEIGHT_PERCENT


def why_not_as_asked(deployment: Document, job: Document, mode: str) -> str:
    """What is deployed instead of the job's engine, and the command that deploys that; empty where all is as asked.

    `mode` is promote, canary or shadow. A request that was made before is the job of then, which deploys only once:
    whatever was deployed since stays.
    """
    model, version, variant = job["model"], job["version"], job["result"]["variant"]
    route = "stable" if mode == "promote" else mode
    same_version, loaded = deployment.get("version") == version, deployment.get("loaded") is not False
    if same_version and loaded and _variant(deployment, route) == variant:
        return ""
    found = f"of model {model!r} {_deployed(deployment)}, and not {variant} of version {version} as {route}"
    if same_version and loaded and _variant(deployment, "stable") == variant:
        return f"{found}: it is stable already, which is more than was asked"
    # A canary or shadow joins a stable variant of its own version.
    joins = same_version and mode != "promote"
    return f"{found}; deploy it with `{_command(model, version, variant, mode if joins else 'promote')}`"


def _variant(deployment: Document, route: str) -> str | None:
    return (deployment.get(route) or {}).get("variant")


def _deployed(deployment: Document) -> str:
    routes = (f"{route} {_variant(deployment, route)}" for route in ("stable", "canary", "shadow"))
    told = ", ".join(text for text in routes if not text.endswith(" None"))
    unloaded = "" if deployment.get("loaded") is not False else " and unloaded"
    return f"version {deployment.get('version')} is deployed{unloaded} ({told})"


def _command(model: str, version: int, variant: str, mode: str) -> str:
    options = {
        "promote": (variant,),
        "canary": ("--canary", variant, "--weight", str(CANARY_WEIGHT_PERCENT)),
        "shadow": ("--shadow", variant),
    }
    return shlex.join(("octavo", "deploy", model, *options[mode], "--version", str(version)))
