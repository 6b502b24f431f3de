"""Opening what was written, whole or damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

import logitbox as lb
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import DamagedDumpError, InputError, NewerFormatError, NotADumpError

V = 12
Make = Callable[..., Recorder]


@pytest.fixture
def dump(recorder: Make, path: Path) -> Dump:
    """Three shards of tokens in one session."""
    with recorder(V, shard_rows=4) as rec:
        for step in range(3):
            rec.record(torch.randn(4, V), torch.arange(4), step=step)
    return open_dump(path)


def test_what_is_no_dump(tmp_path: Path) -> None:
    with pytest.raises(NotADumpError, match=r"nowhere does not exist; give the folder that a Recorder wrote"):
        lb.open(tmp_path / "nowhere")
    with pytest.raises(NotADumpError, match=r"is not a dump \(it has no dump.json\)"):
        lb.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADumpError, match=r"file is not a dump"):
        lb.open(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            '{"format": "logitbox/0"}',
            NotADumpError,
            r"has format 'logitbox/0'; this version reads logitbox/1",
        ),
        (
            '{"format": "logitbox/2"}',
            NewerFormatError,
            r"has format logitbox/2; this version reads up to logitbox/1",
        ),
        ('{"format": "other/1"}', NotADumpError, r"has format 'other/1'"),
        ("{}", NotADumpError, r"has format 'None'"),
        ('{"format": "logi', DamagedDumpError, r"dump.json is not readable JSON"),
        ("[]", DamagedDumpError, r"dump.json does not hold a JSON object"),
    ],
)
def test_manifests_of_other_kinds(
    dump: Dump, recorder: Make, text: str, error: type[Exception], message: str
) -> None:
    (dump.path / "dump.json").write_text(text)
    with pytest.raises(error, match=message):
        open_dump(dump.path)
    with pytest.raises(error, match=message):
        recorder(V)
    assert (dump.path / "dump.json").read_text() == text


def change_session(dump: Dump, **changes: object) -> None:
    file = dump.path / "sessions" / dump.sessions[0].owner / "session.json"
    data = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def test_sessions_of_other_kinds(dump: Dump) -> None:
    change_session(dump, added_later={"x": 1})
    assert open_dump(dump.path).tokens.collect().height == 12
    change_session(dump, format="logitbox/3")
    with pytest.raises(NewerFormatError, match=r"session.json has format logitbox/3"):
        open_dump(dump.path)
    change_session(dump, format="logitbox/1", session="garbled")
    with pytest.raises(DamagedDumpError, match=r"session.json lacks or garbles something"):
        open_dump(dump.path)
    change_session(dump, session="0001-a", record=None)
    with pytest.raises(DamagedDumpError, match=r"record"):
        open_dump(dump.path)


def shard(dump: Dump, number: int) -> Path:
    return dump.shards("tokens")[number].path


@pytest.mark.parametrize("how", ["truncated", "missing", "longer"])
def test_damaged_shard_is_named_and_can_be_skipped(dump: Dump, how: str) -> None:
    file, name = shard(dump, 1), dump.shards("tokens")[1].name
    data = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if how == "truncated" else data + b"x")
    problem = {"truncated": f"truncated: {len(data) // 2} of {len(data)} bytes", "missing": "missing"}.get(
        how, "altered"
    )
    with pytest.raises(DamagedDumpError) as caught:
        open_dump(dump.path)
    for part in (name, problem, "logitbox verify", "damaged='skip'"):
        assert part in str(caught.value)
    rest = open_dump(dump.path, damaged="skip")
    assert rest.tokens.collect()["step"].to_list() == [0] * 4 + [2] * 4
    assert [(d.shard, d.rows) for d in rest.skipped] == [(name, 4)]
    assert rest.skipped[0].problem.startswith(problem)
    assert rest.batches.collect().height == 3
    check = rest.verify()
    assert not check.ok
    assert str(check).startswith("1 of ")
    assert "(4 of " in str(check)


def test_altered_shard_of_the_same_length_is_found_by_verify(dump: Dump) -> None:
    file = shard(dump, 2)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 0x40
    file.write_bytes(data)
    check = open_dump(dump.path).verify()
    assert [(d.shard, d.problem) for d in check.damage] == [
        (dump.shards("tokens")[2].name, "altered: the checksum differs from the journal's")
    ]
    assert open_dump(dump.path).inventory.damage() == []


def test_altered_shard_is_left_out_on_request(dump: Dump) -> None:
    file = shard(dump, 0)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    skipped = open_dump(dump.path, damaged="skip")
    assert [damage.shard for damage in skipped.skipped] == [f"tokens/{file.parent.name}/{file.name}"]
    assert len(skipped.shards("tokens")) == len(dump.shards("tokens")) - 1


def test_session_that_points_elsewhere_is_refused(dump: Dump) -> None:
    """The session's name leads to its files; a stranger's dump must not lead out of its folder."""
    change_session(dump, session="0001-x/../../../elsewhere/0001-abc")
    with pytest.raises(DamagedDumpError, match="says it is '0001-x/"):
        open_dump(dump.path)


def test_whole_dump_verifies(dump: Dump) -> None:
    check = dump.verify()
    shards = len(list(dump.path.glob("*/*/*.parquet")))
    assert check.ok
    assert (check.n_shards, check.strays, check.unfinished, check.torn) == (shards, (), (), ())
    assert str(check) == f"{shards} shards, {check.n_rows} rows: all as written"


def test_strays_are_named_and_not_read(dump: Dump) -> None:
    folder = shard(dump, 0).parent
    shutil.copy(shard(dump, 0), folder / "000099.parquet")
    shutil.copytree(folder, folder.parent / "0009-dead-r0")
    again = open_dump(dump.path)
    assert again.tokens.collect().height == 12
    strays = {Path(name).parts[1:] for name in again.verify().strays}
    assert {(folder.name, "000099.parquet"), ("0009-dead-r0", "000000.parquet")} <= strays


def test_bad_argument(dump: Dump) -> None:
    with pytest.raises(InputError, match=r"damaged is 'maybe'; allowed are 'error' and 'skip'"):
        open_dump(dump.path, damaged="maybe")  # type: ignore[arg-type]


def test_dump_without_any_row(recorder: Make, path: Path) -> None:
    recorder(V, groups={"g": [1]}).close()
    recorder(V, groups={"h": [1]}, probes=True).close()
    dump = open_dump(path)
    for frame in (dump.tokens, dump.samples, dump.batches, dump.scalars, dump.vocab):
        assert frame.collect().height == 0
    assert {"logmass_g", "logmass_h", "nll_next"} <= set(dump.tokens.collect_schema().names())
    assert dump.text.decode([1, 2]) == "<1><2>"


def test_sessions_with_other_columns_are_united_with_nulls(recorder: Make, path: Path) -> None:
    with recorder(V, k=3, groups={"g": [1, 2]}, types=["a", "b"]) as rec:
        rec.record(torch.randn(2, V), torch.tensor([1, 2]), types={"b": torch.tensor([1, 0])}, epoch=0.5)
    with recorder(V, k=5, groups={"h": [1, 2]}, types=["c", "b"], probes=True, lse_beta="never") as rec:
        rec.record(
            torch.randn(2, V),
            torch.tensor([1, 2]),
            types={"b": torch.tensor([1, 0]), "c": torch.tensor([0, 1])},
        )
    dump = open_dump(path)
    rows = dump.tokens.collect()
    assert dump.types.names == ("a", "b", "c")
    assert rows["types"].to_list() == [2, 0, 2, 4]
    assert rows["logmass_g"].is_null().to_list() == [False, False, True, True]
    assert rows["logmass_h"].is_null().to_list() == [True, True, False, False]
    assert rows["top_ids"].list.len().to_list() == [3, 3, 5, 5]
    assert rows["epoch"].to_list() == [0.5, 0.5, None, None]
    assert rows.schema["types"] == pl.UInt32
    assert rows.schema["top_gap"] == pl.List(pl.Float16)


@pytest.mark.parametrize("name", ["lr=0.1", "run [1e-4] *?", "täst"])
def test_paths_with_special_characters(recorder: Make, tmp_path: Path, name: str) -> None:
    with recorder(V, at=tmp_path / name, shard_rows=1) as rec:
        for step in range(2):
            rec.record(torch.randn(2, V), torch.tensor([1, 2]), step=step)
    rows = open_dump(tmp_path / name).tokens.collect()
    assert rows["step"].to_list() == [0, 0, 1, 1]
    assert "lr" not in rows.columns


def test_reading_while_recording(recorder: Make, path: Path) -> None:
    rec = recorder(V, shard_rows=1)
    for step in range(5):
        rec.record(torch.randn(2, V), torch.tensor([1, 2]), step=step)
        rec.flush()
        assert open_dump(path).tokens.collect()["step"].max() == step


def test_manifest(dump: Dump) -> None:
    assert dump.manifest.format == "logitbox/1"
    assert dump.manifest.sessions == dump.sessions
    assert repr(dump) == f"Dump({str(dump.path)!r}, 12 token rows, 1 sessions)"
