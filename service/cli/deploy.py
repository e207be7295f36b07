"""`octavo deploy`: shows which variants answer a model's requests, and changes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.client import Client, Document, url_path
from service.cli.exit_codes import epilog
from service.cli.figures import byte_text, facts_table, number_text, rows_table
from service.cli.session import DEFAULT_URL, AsJson, ServerUrl, session
from service.cli.shapes import DEPLOYMENT, ENGINES

if TYPE_CHECKING:
    from rich.console import RenderableType

DEPLOY_EPILOG = epilog(
    "octavo deploy digits",
    "octavo deploy digits int8-onnxruntime",
    "octavo deploy digits --canary int8-onnxruntime --weight 10",
    "octavo deploy digits --promote",
    "octavo deploy digits --rollback",
)

_ROLLBACK_HELP = "Go back to the deployment before the last change; a second rollback undoes the first."


def deploy(
    model: Annotated[str, typer.Argument(help="Name of an uploaded model.")],
    variant: Annotated[str | None, typer.Argument(help="Variant to make stable; ends canary and shadow.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Model version. Default: the deployed one.")] = None,
    canary: Annotated[str | None, typer.Option(help="Variant that answers a share of the requests.")] = None,
    weight: Annotated[int | None, typer.Option(min=1, max=100, help="The canary's share in percent.")] = None,
    shadow: Annotated[str | None, typer.Option(help="Variant that runs beside, unseen by callers.")] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make the canary stable.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help=_ROLLBACK_HELP)] = False,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show a model's deployment and engines, or change which variants answer; no request fails meanwhile."""
    routes = Routes(variant, version, canary, weight, shadow)
    changes = [promote, rollback, routes != Routes()]
    if sum(changes) > 1:
        raise typer.BadParameter("give --promote, or --rollback, or routes: one change at a time")
    if (weight is None) != (canary is None):
        raise typer.BadParameter("--canary VARIANT and --weight PERCENT go together")
    with session(url, as_json) as current:
        path = url_path("models", model, "deployment")
        if not any(changes):
            shown = current.client.fetch("GET", path, DEPLOYMENT)
            engines = current.client.fetch("GET", url_path("models", model, "engines"), ENGINES)["engines"]
            current.terminal.show({"deployment": shown, "engines": engines}, lambda: _both_view(shown, engines))
            return
        if promote or rollback:
            changed = current.client.fetch("POST", f"{path}/{'promote' if promote else 'rollback'}", DEPLOYMENT)
        else:
            changed = set_routes(current.client, model, routes)
        current.terminal.show(changed, lambda: _deployment_view(changed))


@dataclass(frozen=True, slots=True)
class Routes:
    """What a user says of a model's routes; None is unsaid."""

    variant: str | None = None
    version: int | None = None
    canary: str | None = None
    weight: int | None = None
    shadow: str | None = None


def set_routes(client: Client, model: str, routes: Routes) -> Document:
    """Puts the deployment: a new stable variant starts afresh, a lone canary or shadow joins what is deployed."""
    path = url_path("models", model, "deployment")
    now: Document = client.fetch("GET", path, DEPLOYMENT)
    body: Document = {"version": routes.version or now["version"]}
    body["stable"] = {"variant": routes.variant} if routes.variant else now["stable"]
    kept = {} if routes.variant else {key: now[key] for key in ("canary", "shadow") if now.get(key)}
    if routes.canary:
        kept["canary"] = {"variant": routes.canary, "weight": routes.weight}
    if routes.shadow:
        kept["shadow"] = {"variant": routes.shadow}
    changed: Document = client.fetch("PUT", path, DEPLOYMENT, json=body | kept)
    return changed


def _deployment_view(deployment: Document) -> RenderableType:
    canary = deployment.get("canary")
    shadow = deployment.get("shadow")
    return facts_table(
        {
            "version": deployment.get("version"),
            "stable": deployment["stable"]["variant"],
            "canary": f"{canary['variant']} ({canary.get('weight')} %)" if canary else None,
            "shadow": shadow["variant"] if shadow else None,
            "loaded": deployment.get("loaded"),
        }
    )


def _both_view(deployment: Document, engines: list[Document]) -> RenderableType:
    from rich.console import Group

    columns = ("version", "variant", "runtime", "precision", "size", "verdict", "loss", "job")
    return Group(_deployment_view(deployment), rows_table(columns, (_engine_row(engine) for engine in engines)))


def _engine_row(engine: Document) -> tuple[object, ...]:
    certificate = engine.get("certificate") or {}
    names = ("version", "variant", "runtime", "precision")
    size, loss = byte_text(engine.get("size_bytes")), number_text(certificate.get("loss"))
    return *(engine.get(name) for name in names), size, certificate.get("verdict"), loss, engine.get("job")
