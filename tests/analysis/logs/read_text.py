"""Reading a log of any name, and its values."""

from __future__ import annotations

from logitbox.analysis.logs import read_logged


def read(tmp_path, name, text, **options):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_logged(path, **options)


def cells(logged, *, run=0):
    """{(step, key): (phase, value)} of a run."""
    rows = logged.frame.filter(run=run).iter_rows(named=True)
    return {(row["step"], row["key"]): (row["phase"], row["value"]) for row in rows}
