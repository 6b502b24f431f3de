"""docs/audit.md says what the registries say, and its commands print what stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "audit.md"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_tables", ROOT / "scripts" / "audit_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_tables_are_what_the_registries_say(script: ModuleType, page: str):
    assert script.with_tables(page) == page, "run .venv/bin/python scripts/audit_tables.py"


def test_a_stale_table_is_told(script: ModuleType, page: str):
    row = next(line for line in page.splitlines() if line.startswith("| `micro-mean"))
    assert script.with_tables(page.replace(row, "")) == page
    with pytest.raises(SystemExit, match="lacks the markers <!-- table inequalities -->"):
        script.with_tables(page.replace("<!-- table inequalities -->", ""))


def test_commands_print_what_stands_there(script: ModuleType, page: str):
    assert script.with_outputs(page) == page, "run .venv/bin/python scripts/audit_tables.py"


def test_what_a_command_prints_is_put_behind_it(script: ModuleType):
    file = '$ cat log.jsonl\n{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.9}\n'
    block = f"```console\n{file}$ logitbox audit --logged log.jsonl\nwhat it said once\n```\n"
    written = script.with_outputs(block)
    assert written.startswith(f"```console\n{file}$ logitbox audit --logged log.jsonl\nlog.jsonl: ")
    assert "what it said once" not in written
    with pytest.raises(SystemExit, match="cat and logitbox only, not '\\$ rm log'"):
        script.with_outputs("```console\n$ rm log\n```\n")


def test_three_convictions_are_shown(page: str):
    """At least one of each: by a dump, by an inequality, and a bug."""
    section = page.partition("## Three convictions")[2].partition("\n## ")[0]
    assert len(re.findall(r"^### ", section, re.MULTILINE)) >= 3
    printed = "".join(re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    for verdict in ("impossible", "bug", "other convention"):
        assert re.search(rf"^\S+  +{verdict}", printed, re.MULTILINE) or verdict in printed


def test_links_within_the_page_lead_somewhere(page: str):
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
