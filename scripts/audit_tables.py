"""Writes the tables of docs/audit.md from the registries, and what its commands print.

    .venv/bin/python scripts/audit_tables.py

Tables stand between marker comments. In a `console` block, `$ cat FILE` is followed by a file as it is, and
`$ logitbox …` by what that command prints; the files of a page are there for all its commands.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from logitbox import cli
from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES
from logitbox.analysis.audit.inequalities.registry import INEQUALITIES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "audit.md"
DIGITS, TRAINERS = "logitbox/data/digits", "tests/realmodel/trainers"
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```)", re.MULTILINE | re.DOTALL)


def hypothesis_table() -> str:
    """One row for each registered convention or bug."""
    rows = (
        [f"`{one.id}`", one.kind, one.about, _of(one), one.needs or "–", _seen(one)] for one in HYPOTHESES
    )
    return table(("id", "", "what the code does", "of", "record", "seen in"), rows)


def _of(one: Hypothesis) -> str:
    return ", ".join(f"`{value}`" for value in one.values) or "any"


def _seen(one: Hypothesis) -> str:
    """Its evidence; addresses as short links."""
    return ", ".join(_linked(text) for text in one.evidence) or "–"


def _linked(text: str) -> str:
    found = re.fullmatch(r"https?://(?:www\.)?(\S+)", text)
    if found is None:
        return text
    short = re.sub(r"^github\.com/([^/]+/)?([^/]+)/(issues|pull|discussions)/(\d+).*", r"\2#\4", found[1])
    return f"[{short}]({text})"


def inequality_table() -> str:
    """One row for each inequality that no correct pair of metrics breaks."""
    told = {True: "impossible", False: "noticed"}
    rows = ([f"`{one.id}`", one.formula, told[one.convicts], one.about] for one in INEQUALITIES)
    return table(("id", "holds", "else", "because"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in cells] for cells in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def workplace(folder: Path) -> None:
    """Makes a folder look like a clone, as far as commands read it."""
    for part in (DIGITS, TRAINERS):
        shutil.copytree(ROOT / part, folder / part)


def with_outputs(page: str) -> str:
    """The page with what its commands print, run anew."""
    before, columns = Path.cwd(), os.environ.pop("COLUMNS", None)
    with tempfile.TemporaryDirectory() as folder:
        workplace(Path(folder))
        os.chdir(folder)
        try:
            return BLOCK.sub(
                lambda block: "".join(map(_part, re.split(r"(?=^\$ )", block[0], flags=re.MULTILINE))), page
            )
        finally:
            os.chdir(before)
            if columns is not None:
                os.environ["COLUMNS"] = columns


def _part(part: str) -> str:
    """A command and what follows it. Raises SystemExit for what is no command of ours."""
    if not part:
        return part
    command, _, rest = part.partition("\n")
    words = shlex.split(command.removeprefix("$ "), comments=True)
    if words[0] == "cat":
        Path(words[1]).write_text(rest, encoding="utf-8")
        return part
    if words[0] != "logitbox":
        raise SystemExit(f"a console block may call cat and logitbox only, not {command!r}")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.run(words[1:])
    if status == 2:
        raise SystemExit(f"{command} cannot be run")
    return f"{command}\n{out.getvalue()}"


def with_tables(page: str) -> str:
    """The page with its tables written anew."""
    for name, text in {"hypotheses": hypothesis_table(), "inequalities": inequality_table()}.items():
        start, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{PAGE.name} lacks the markers {start} and {end}; add both")
        page = f"{before}{start}\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_outputs(with_tables(PAGE.read_text(encoding="utf-8"))), encoding="utf-8")
