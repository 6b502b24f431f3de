"""Writes the list of measures in docs/calibration.md from the code.

.venv/bin/python scripts/calibration_measures.py
"""

from __future__ import annotations

from pathlib import Path

from logitbox.analysis.calibration.measures import MEASURES

PAGE = Path(__file__).parent.parent / "docs" / "calibration.md"
BEGIN, END = "<!-- measures: python scripts/calibration_measures.py -->", "<!-- end of measures -->"


def table() -> str:
    """One line per measure, in the order of the registry."""
    rows = [f"| `{measure.name}` | {measure.about.replace('|', chr(92) + '|')} |" for measure in MEASURES]
    return "\n".join(["| Field | Definition |", "| --- | --- |", *rows])


def written(page: str) -> str:
    """The page with the table put in its place."""
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:start]}\n\n{table()}\n\n{page[end:]}"


def main() -> None:
    """Renew the page."""
    PAGE.write_text(written(PAGE.read_text()))


if __name__ == "__main__":
    main()
