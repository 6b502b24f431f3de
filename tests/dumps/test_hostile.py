"""JSON and tables from a stranger: refused with the file's name, never with a traceback of another kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import DamagedDumpError

V = 12


@pytest.fixture
def session(recorder: Callable[..., Recorder], path: Path) -> Path:
    with recorder(V) as rec:
        rec.record(torch.randn(4, V), torch.arange(4))
    return path / "sessions" / rec.session.owner


SHARD = '{"event":"shard","table":"tokens","name":"a","rows":%s,"bytes":%s,"sha256":"0"}'


@pytest.mark.parametrize(
    "line",
    [
        SHARD % ("1e999", 1), SHARD % (-1, 1), SHARD % (1, -5), SHARD % ("9" * 5000, 1), SHARD % ("1.5", 1),
        "[" * 100_000, '{"event":"dropped","calls":1e999,"rows":1}',
    ],
    ids=range(7),
)  # fmt: skip
def test_journal(session: Path, path: Path, line: str) -> None:
    with (session / "journal.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DamagedDumpError, match=r"journal.jsonl, line \d+ is damaged"):
        open_dump(path)


@pytest.mark.parametrize(
    "record",
    [
        {"groups": [{"name": "g", "start": 0, "stop": 10**30}]},
        {"groups": [{"name": "g", "start": -5, "stop": 2}]},
        {"groups": [{"name": "g", "ids": [1, 1]}]},
        {"groups": [7]},
        {"groups": [{"name": "../g", "ids": [1]}]},
        {"vocab_size": -1},
        {"vocab_size": 10**12},
        {"k": 0},
        {"k": 1e999},
        {"ordered": {"nowhere": {}}},
        {"groups": [{"name": "g", "ids": [1]}], "ordered": {"g": {"sigma": 10**400}}},
        {"types": {"names": ["a"] * 40, "partition": False}},
        {"scope": "none"},
    ],
    ids=str,
)
def test_record_of_a_session(session: Path, path: Path, record: dict[str, object]) -> None:
    file = session / "session.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "record": {**data["record"], **record}}))
    with pytest.raises(DamagedDumpError, match=r"session.json lacks or garbles"):
        open_dump(path)


@pytest.mark.parametrize(
    ("key", "value"), [("resume_from", "x"), ("rank", -1), ("every", 0), ("world", True), ("versions", 1)]
)
def test_fields_of_a_session(session: Path, path: Path, key: str, value: object) -> None:
    file = session / "session.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(DamagedDumpError, match=rf"session.json lacks or garbles .*{key}"):
        open_dump(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"rank": ' + "9" * 5000 + "}"], ids=["deep", "digits"])
def test_json_that_cannot_be_parsed(session: Path, path: Path, text: str) -> None:
    (session / "session.json").write_text(text)
    with pytest.raises(DamagedDumpError, match=r"session.json is not readable JSON"):
        open_dump(path)


def test_token_ids_beyond_the_vocabulary_take_no_memory(
    recorder: Callable[..., Recorder], path: Path
) -> None:
    with recorder(V) as rec:
        rows = {"id": [1, 2**31 - 1, -3], "bytes": [b"b", b"x", b"y"], "special": [False] * 3}

        class Vocab:
            def tables(self) -> object:
                types = {"id": pa.int32(), "bytes": pa.binary(), "special": pa.bool_()}
                return (("vocab", pa.table(rows, schema=pa.schema(types))),)

        rec._writer.put(Vocab())  # type: ignore[arg-type]
    text = open_dump(path).text
    assert len(text.tokens) == 1
    assert text.decode([1, 2]) == "b<2>"
