"""The client commands, over HTTP only. Importing this loads typer and nothing heavier; commands load what they need."""

from __future__ import annotations

from typing import Annotated

import typer

from service import __version__
from service.cli import batching, demo, deploy, infer, jobs, quantize, report, upload
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


app.command(epilog=upload.UPLOAD_EPILOG)(upload.upload)
app.command(epilog=upload.DATASET_EPILOG)(upload.dataset)
app.command(epilog=quantize.QUANTIZE_EPILOG)(quantize.quantize)
app.command(epilog=jobs.JOBS_EPILOG)(jobs.jobs)
app.command(epilog=report.REPORT_EPILOG)(report.report)
app.command(epilog=deploy.DEPLOY_EPILOG)(deploy.deploy)
app.command(epilog=batching.BATCHING_EPILOG)(batching.batching)
app.command(epilog=infer.INFER_EPILOG)(infer.infer)
app.command(epilog=infer.PREDICT_EPILOG)(infer.predict)
app.command(hidden=True, epilog=demo.DEMO_EPILOG)(demo.demo)
