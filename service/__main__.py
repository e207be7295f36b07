"""The command line's entry: `octavo up`, `serve` and `work`, beside the client commands of service.cli."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.cli import app
from service.cli.exit_codes import ExitCode
from service.errors import OctavoError

_DataDir = Annotated[str | None, typer.Option(help="Folder of all state (OCTAVO_DATA_DIR).")]
_Host = Annotated[str | None, typer.Option(help="Address to listen on (OCTAVO_HOST).")]
_Port = Annotated[int | None, typer.Option(help="Port to listen on (OCTAVO_PORT).")]
_GrpcPort = Annotated[int | None, typer.Option(help="Port to listen on for gRPC (OCTAVO_GRPC_PORT; empty: none).")]
_Processes = Annotated[int | None, typer.Option(help="Serving processes that share the ports (OCTAVO_PROCESSES).")]
_PlaceOption = Annotated[Path | None, typer.Option(hidden=True, help="What a process of several is started with.")]
_SERVER = "Server"


@app.command(rich_help_panel=_SERVER, epilog="Example: octavo up --port 8000 --data-dir ./data")
def up(
    host: _Host = None,
    port: _Port = None,
    grpc_port: _GrpcPort = None,
    data_dir: _DataDir = None,
    processes: _Processes = None,
) -> None:
    """Start the server and a worker, and keep both alive. Stop with Ctrl-C or SIGTERM."""
    from service.launch import launch
    from service.logs import set_up_logging
    from service.settings import drop_unknown_variables, read_server_settings

    settings = read_server_settings(host=host, port=port, grpc_port=grpc_port, data_dir=data_dir, processes=processes)
    set_up_logging(settings.log_level)
    drop_unknown_variables(os.environ)
    raise typer.Exit(launch(settings, with_worker=True))


@app.command(rich_help_panel=_SERVER, epilog="Example: OCTAVO_DATABASE_URL=postgresql://... octavo serve")
def serve(
    host: _Host = None,
    port: _Port = None,
    grpc_port: _GrpcPort = None,
    data_dir: _DataDir = None,
    processes: _Processes = None,
    place: _PlaceOption = None,
) -> None:
    """Start the server alone. It answers requests; jobs wait for a worker."""
    from service.logs import set_up_logging
    from service.settings import drop_unknown_variables, read_server_settings

    settings = read_server_settings(host=host, port=port, grpc_port=grpc_port, data_dir=data_dir, processes=processes)
    if place is None and settings.processes > 1:
        from service.launch import launch

        set_up_logging(settings.log_level)
        drop_unknown_variables(os.environ)
        raise typer.Exit(launch(settings, with_worker=False))
    from service.processes.place import Place
    from service.serve import serve as serve_until_stopped

    if place is None:
        set_up_logging(settings.log_level)
        drop_unknown_variables(os.environ)
        serve_until_stopped(settings)
    else:
        own = Place.at(place, settings.processes)
        set_up_logging(settings.log_level, serving_process=own.number)
        serve_until_stopped(settings, own)


@app.command(
    rich_help_panel=_SERVER, epilog="Example: OCTAVO_DATABASE_URL=postgresql://octavo:secret@db/octavo octavo work"
)
def work(data_dir: _DataDir = None, processes: _Processes = None) -> None:
    """Start a worker alone. It runs the jobs that servers of the same database accept."""
    from service.logs import set_up_logging
    from service.settings import drop_unknown_variables, read_settings
    from service.work import work as work_until_stopped

    # An engine is measured on as many threads as it is served with, and serving processes share them out.
    settings = read_settings(data_dir=data_dir, processes=processes)
    set_up_logging(settings.log_level)
    drop_unknown_variables(os.environ)
    work_until_stopped(settings)


def main() -> None:
    """Runs the command line; an expected error is one line on stderr, and exit code 2, or 4 where a retry may help."""
    try:
        app()
    except OctavoError as error:
        typer.echo(f"octavo: {error}", err=True)
        sys.exit(ExitCode.UNREACHABLE if error.retryable else ExitCode.USAGE)


if __name__ == "__main__":
    main()
