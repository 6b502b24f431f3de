from __future__ import annotations

import json
from pathlib import Path

import pytest

from logitbox.dumps.journal import JOURNAL, JournalWriter, ShardEntry, read_journal
from logitbox.errors import DamagedDumpError

ENTRY = ShardEntry("tokens", "000000.parquet", 5, 123, "ab" * 32)


def written(folder: Path) -> Path:
    journal = JournalWriter(folder)
    journal.shard(ENTRY)
    journal.append({"event": "dropped", "calls": 2, "rows": 30})
    journal.append({"event": "dropped", "calls": 1, "rows": 4})
    journal.append({"event": "something a later version writes", "x": 1})
    journal.close()
    return folder / JOURNAL


def test_lines_are_plain_json(tmp_path: Path) -> None:
    lines = written(tmp_path).read_text().splitlines()
    assert json.loads(lines[0]) == {
        "event": "shard", "table": "tokens", "name": "000000.parquet", "rows": 5, "bytes": 123, "sha256": "ab" * 32,
    }  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    written(tmp_path)
    journal = read_journal(tmp_path)
    assert journal.shards == (ENTRY,)
    assert (journal.dropped_calls, journal.dropped_rows) == (3, 34)
    assert (journal.closed, journal.torn) == (False, False)


def test_missing_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert read_journal(tmp_path).shards == ()


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_torn_last_line_is_left_out_and_told(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path)
    line = json.dumps({"event": "shard", "table": "tokens", "name": "000001.parquet", "rows": 1})
    path.write_text(path.read_text() + line[:cut])
    journal = read_journal(tmp_path)
    assert journal.shards == (ENTRY,)
    assert journal.torn


@pytest.mark.parametrize(
    "line",
    [
        "{half",
        "[1]",
        '{"event": "shard", "table": "tokens"}',
        '{"event": "dropped", "calls": "x", "rows": 1}',
    ],
)
def test_damage_before_the_last_line_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    path = written(tmp_path)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *rest]) + "\n")
    with pytest.raises(DamagedDumpError, match=r"journal.jsonl, line 2 is damaged"):
        read_journal(tmp_path)
