"""What `--help` promises."""

from __future__ import annotations

import pytest

from service import __version__
from service.cli.exit_codes import ExitCode
from tests.unit.cli.conftest import Octavo

COMMANDS = ("upload", "dataset", "quantize", "jobs", "report", "deploy", "batching", "infer", "predict", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example_of_it(octavo: Octavo, command: str) -> None:
    shown = octavo(command, "--help")
    assert shown.code == 0
    assert f"$ octavo {command}" in shown.out.split("Examples")[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_documents_every_exit_code(octavo: Octavo, command: str) -> None:
    codes = octavo(command, "--help").out.split("Exit codes")[1]
    listed = [int(line.split()[0]) for line in codes.splitlines() if line.strip()]
    assert listed == [code.value for code in ExitCode]


def test_the_top_help_lists_every_client_command_but_the_demo(octavo: Octavo) -> None:
    shown = octavo("--help").out.split("Commands")[1].split("Examples")[0]
    assert all(f" {command} " in shown for command in COMMANDS[:-1])
    assert " demo " not in shown


def test_an_unknown_option_is_wrong_usage(octavo: Octavo) -> None:
    assert octavo("jobs", "--no-such-option").code == ExitCode.USAGE


def test_the_help_of_deploy_tells_where_a_rollback_goes_and_what_a_second_one_does(octavo: Octavo) -> None:
    shown = " ".join(octavo("deploy", "--help", COLUMNS="300").out.split())
    assert "before the last change; a second rollback undoes the first" in shown


def test_the_help_of_quantize_tells_the_metric_that_is_taken_by_default(octavo: Octavo) -> None:
    shown = " ".join(octavo("quantize", "--help", COLUMNS="300").out.split())
    assert "Default: top1 with labels, agreement without, cosine without class scores." in shown


def test_the_help_of_upload_tells_that_a_later_version_waits_for_a_deployment(octavo: Octavo) -> None:
    shown = " ".join(octavo("upload", "--help", COLUMNS="300").out.split())
    assert "a later one waits for `octavo deploy`" in shown


def test_the_version_is_printed_alone(octavo: Octavo) -> None:
    shown = octavo("--version")
    assert (shown.code, shown.out) == (0, f"octavo {__version__}\n")


def test_the_top_help_begins_with_what_octavo_is(octavo: Octavo) -> None:
    shown = " ".join(octavo("--help", COLUMNS="300").out.split())
    assert "Octavo: upload a model, get engines proven" in shown
    assert "--version" in shown
    assert "Print the version and exit." in shown
