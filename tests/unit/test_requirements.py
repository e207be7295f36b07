"""The pinned requirements: hashed, free of indexes and machines, and in step with the project and with one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINNED = sorted((ROOT / "requirements").glob("*.txt"))


def pins(path: Path) -> dict[str, Requirement]:
    lines = (line.split("\\")[0].strip() for line in path.read_text().splitlines() if not line.startswith(" "))
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_every_pinned_package_has_hashes_and_no_line_names_an_index_or_a_machine(path: Path) -> None:
    pin = r"[a-z0-9][a-z0-9.-]*==[^\s;]+( ; [^\\]+)? \\\n"
    hashes = r"(?:    --hash=sha256:[0-9a-f]{64} \\\n)*    --hash=sha256:[0-9a-f]{64}\n"
    assert re.fullmatch(f"(?:{pin}{hashes})+", path.read_text())


@pytest.mark.parametrize(
    ("file", "extras"), [("cpu.txt", ("cpu",)), ("gpu.txt", ("gpu",)), ("dev.txt", ("cpu", "dev")), ("build.txt", ())]
)
def test_pinned_versions_fit_what_the_project_asks_for(file: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = list(project["build-system"]["requires"])
    if extras:
        asked = list(project["project"]["dependencies"])
        for extra in extras:
            asked += project["project"]["optional-dependencies"][extra]
    pinned = pins(ROOT / "requirements" / file)
    for requirement in map(Requirement, asked):
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement} is not in {file}; run make requirements"
        version = str(pin.specifier).removeprefix("==")
        assert requirement.specifier.contains(version, prereleases=True), f"{pin}: {requirement}; run make requirements"


@pytest.mark.parametrize("file", ["cpu.txt", "gpu.txt", "build.txt"])
def test_an_image_gets_the_versions_that_the_tests_ran_with(file: str) -> None:
    tested = pins(ROOT / "requirements" / "dev.txt")
    shipped = pins(ROOT / "requirements" / file)
    shared = shipped.keys() & tested.keys()
    assert {name: str(shipped[name].specifier) for name in shared} == {
        name: str(tested[name].specifier) for name in shared
    }


def test_the_two_onnx_runtimes_are_never_installed_together() -> None:
    for path in PINNED:
        assert len({"onnxruntime", "onnxruntime-gpu"} & pins(path).keys()) <= 1, path.name


def test_pinned_files_are_installed_as_they_stand_because_old_pips_fail_to_resolve_extras_of_pinned_packages() -> None:
    recipe = (ROOT / "Makefile").read_text().splitlines()
    installs = [line.strip() for line in recipe if "INSTALL" in line and "requirements/" in line]
    assert installs
    assert all(line.startswith("$(INSTALL_PINNED) requirements/") for line in installs), installs


def test_both_onnx_runtimes_leave_before_the_gpus_comes_for_their_files_lie_in_one_folder() -> None:
    recipe = (ROOT / "Makefile").read_text().split("$(VENV)/.gpu:", 1)[1].split("\n\n", 1)[0].splitlines()
    (removed,) = [at for at, line in enumerate(recipe) if "pip uninstall" in line]
    (installed,) = [at for at, line in enumerate(recipe) if "INSTALL_PINNED" in line]
    assert removed < installed
    assert {"onnxruntime", "onnxruntime-gpu"} <= set(recipe[removed].split())
