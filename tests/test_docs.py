"""Every code block of the README and of docs/ runs, against the example dumps."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import logitbox as lb
from logitbox import cli

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

MAKE_TARGETS = re.compile(r"^(\w+):", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks as if `make demo` and a run recorded to runs/a had been there, with our logs of real trainers."""
    shutil.copytree(lb.load_example("digits").path, tmp_path / "demo-out" / "dump")
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_python_blocks_run(page: Path, workplace: Path):
    namespace: dict[str, object] = {"__name__": "docs"}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")], ids=lambda page: page.name)
def test_shell_blocks_run(page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]):
    targets = set(MAKE_TARGETS.findall((ROOT / "Makefile").read_text()))
    for line in "".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        elif words[0] == "logitbox":
            assert cli.run(words[1:]) == 0, line
        else:
            pytest.fail(f"{page.name}: a shell block may call make and logitbox only, not {line!r}")
