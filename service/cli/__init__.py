"""The client commands, over HTTP only. Importing this loads typer and nothing heavier; commands load what they need."""

from __future__ import annotations

from typing import Annotated

import typer

from service import __version__
from service.cli import batching, demo, deploy, infer, jobs, quantize, report, upload
from service.cli.arguments import CheckedCommand
from service.cli.exit_codes import epilog

app = typer.Typer(
    name="octavo",
    help="Octavo: upload a model, get engines proven on the machine that serves them, and serve them.",
    epilog=epilog(
        "octavo upload digits.onnx --name digits",
        "octavo quantize digits --calibration digits-calibration --validation digits-validation --deploy promote",
        "octavo predict digits sample.png",
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"octavo {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Nothing but what every command shares; its help is the application's own."""


for _command, _epilog in (
    (upload.upload, upload.UPLOAD_EPILOG),
    (upload.dataset, upload.DATASET_EPILOG),
    (quantize.quantize, quantize.QUANTIZE_EPILOG),
    (jobs.jobs, jobs.JOBS_EPILOG),
    (report.report, report.REPORT_EPILOG),
    (deploy.deploy, deploy.DEPLOY_EPILOG),
    (batching.batching, batching.BATCHING_EPILOG),
    (infer.infer, infer.INFER_EPILOG),
    (infer.predict, infer.PREDICT_EPILOG),
):
    app.command(cls=CheckedCommand, epilog=_epilog)(_command)
app.command(cls=CheckedCommand, hidden=True, epilog=demo.DEMO_EPILOG)(demo.demo)
