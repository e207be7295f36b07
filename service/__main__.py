"""The command line's entry: `octavo up`, `serve` and `work`, beside the client commands of service.cli."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from service.cli import app
from service.cli.exit_codes import ExitCode
from service.errors import OctavoError

_DataDir = Annotated[str | None, typer.Option(help="Folder of all state (OCTAVO_DATA_DIR).")]
_Host = Annotated[str | None, typer.Option(help="Address to listen on (OCTAVO_HOST).")]
_Port = Annotated[int | None, typer.Option(help="Port to listen on (OCTAVO_PORT).")]
_GrpcPort = Annotated[int | None, typer.Option(help="Port to listen on for gRPC (OCTAVO_GRPC_PORT; empty: none).")]
_SERVER = "Server"


@app.command(rich_help_panel=_SERVER, epilog="Example: octavo up --port 8000 --data-dir ./data")
def up(host: _Host = None, port: _Port = None, grpc_port: _GrpcPort = None, data_dir: _DataDir = None) -> None:
    """Start the server and a worker, and keep both alive. Stop with Ctrl-C or SIGTERM."""
    from service.logs import set_up_logging
    from service.settings import read_settings
    from service.supervisor import Supervisor, octavo_command

    settings = read_settings(host=host, port=port, grpc_port=grpc_port, data_dir=data_dir)
    set_up_logging(settings.log_level)
    common = ["--data-dir", str(settings.data_dir)]
    # Without gRPC, both read that from the environment that they share.
    grpc_options = [] if settings.grpc_port is None else ["--grpc-port", str(settings.grpc_port)]
    http_options = ["--host", settings.host, "--port", str(settings.port)]
    commands: dict[str, Sequence[str]] = {
        "serve": octavo_command("serve", *http_options, *grpc_options, *common),
        "work": octavo_command("work", *common),
    }
    raise typer.Exit(Supervisor(commands, stop_seconds=settings.drain_seconds + 5).run())


@app.command(rich_help_panel=_SERVER, epilog="Example: OCTAVO_DATABASE_URL=postgresql://... octavo serve")
def serve(host: _Host = None, port: _Port = None, grpc_port: _GrpcPort = None, data_dir: _DataDir = None) -> None:
    """Start the server alone. It answers requests; jobs wait for a worker."""
    from service.logs import set_up_logging
    from service.serve import serve as serve_until_stopped
    from service.settings import read_settings

    settings = read_settings(host=host, port=port, grpc_port=grpc_port, data_dir=data_dir)
    set_up_logging(settings.log_level)
    serve_until_stopped(settings)


@app.command(rich_help_panel=_SERVER, epilog="Example: OCTAVO_WORKER_ID=worker-1 octavo work")
def work(data_dir: _DataDir = None) -> None:
    """Start a worker alone. It runs the jobs that servers of the same database accept."""
    from service.logs import set_up_logging
    from service.settings import read_settings
    from service.work import work as work_until_stopped

    settings = read_settings(data_dir=data_dir)
    set_up_logging(settings.log_level)
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
