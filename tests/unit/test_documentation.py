"""The documents say what the code does: settings, metrics, decisions, and the links between the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.metrics import REGISTRY
from service.settings import Settings
from tests.metric_families import Family, declared_families

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])


@pytest.fixture
def families() -> dict[str, Family]:
    return declared_families()


def table_rows(page: Path, prefix: str) -> dict[str, list[str]]:
    """The cells of each table row that begins with a name of this prefix, by that name."""
    rows = re.findall(rf"^\| `({prefix}\w+)` \|(.+)\|$", page.read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in rows}


def test_every_setting_is_documented_and_no_other() -> None:
    assert set(table_rows(DOCS / "settings.md", "OCTAVO_")) == {
        f"OCTAVO_{name.upper()}" for name in Settings.model_fields
    }


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_documented_default_is_the_default(name: str) -> None:
    field = Settings.model_fields[name]
    documented = table_rows(DOCS / "settings.md", "OCTAVO_")[f"OCTAVO_{name.upper()}"][0]
    if field.default_factory is not None or field.default is None:
        assert documented
        assert not documented.startswith("`"), "a default that depends on the host is told in words"
    else:
        assert documented == f"`{field.default}`"


def test_every_setting_has_a_unit_and_a_meaning() -> None:
    for name, cells in table_rows(DOCS / "settings.md", "OCTAVO_").items():
        assert len(cells) == 4, name
        assert all(cells), name


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other(families: dict[str, Family]) -> None:
    documented = {
        name: (cells[0], () if cells[1] == "none" else tuple(cells[1].split(", ")))
        for name, cells in table_rows(DOCS / "metrics.md", "octavo_").items()
    }
    assert documented == {name: (family.kind, family.labels) for name, family in families.items()}


def test_every_metric_is_declared_in_one_module(families: dict[str, Family]) -> None:
    registered = {metric.name for metric in REGISTRY.collect()}
    assert registered <= {name.removesuffix("_total") for name in families}


def test_every_decision_is_in_the_index_and_numbered_without_gaps() -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    assert [page.name[:4] for page in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]
    assert re.findall(r"\]\((0.+\.md)\)", index) == [page.name for page in DECISIONS]


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_tells_context_decision_and_consequences_on_a_short_page(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_a_file_leads_to_one(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
