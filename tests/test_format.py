"""`docs/format.md` read by strangers: plain pyarrow and json, DuckDB, pandas. No logitbox on the reading side.

logitbox writes the dump under test; everything below `# --- a reader` was written from the document alone.
"""

import hashlib
import json

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from logitbox.dumps.recorder import Recorder

V, K, B, T = 700, 5, 3, 9
STEPS = ((0, "train"), (1, "train"), (2, "train"), (2, "eval"))


def _batch(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, T, V, generator=generator) * 3
    labels = torch.randint(V, (B, T), generator=generator)
    logits.scatter_(2, labels.roll(-1, 1).unsqueeze(2), 9.5)  # so that some targets come first
    labels[:, :2] = -100
    return logits, labels


def _record(path, seed, resume_from=None, groups=None, types=("first", "second")):
    """One session of four batches; returns {(step, phase): (logits, labels)}."""
    given = {}
    with Recorder(
        path, V, k=K, shard_rows=2 * B * T, groups=groups, types=types, resume_from=resume_from
    ) as rec:
        for number, (step, phase) in enumerate(STEPS):
            if resume_from is not None and step < resume_from:
                continue
            logits, labels = given[step, phase] = _batch(seed + number)
            masks = {"first": labels % 2 == 0, "second": labels % 3 == 0}
            rec.record(logits, labels, step=step, phase=phase, sample=[10, 11, 12], types=masks)
        rec.samples({"sample": [10, 11, 12], "key": ["a", "b", "c"], "source": ["x", "y", "y"]})
        rec.scalars(2, {"loss": float("nan")})
    return given


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(path of a dump of two sessions, the second resumed from step 1; what should be visible)."""
    path = tmp_path_factory.mktemp("format") / "run"
    first = _record(path, 100)
    second = _record(path, 200, resume_from=1, groups={"low": range(50)}, types=("second", "first"))
    shown = {(0, step, phase): data for (step, phase), data in first.items() if phase == "eval" or step < 1}
    return path, shown | {(1, step, phase): data for (step, phase), data in second.items()}


def _truth(recorded):
    """Float64 columns of every visible row, in recording order."""
    rows = []
    for (_, step, phase), (logits, labels) in recorded[1].items():
        log_p = logits.double().log_softmax(-1)
        for b in range(B):
            for t in range(1, T):
                gold, x = int(labels[b, t]), logits[b, t - 1].double().numpy()
                if gold == -100:
                    continue
                best = np.lexsort((np.arange(V), -x))[:K]
                row = {
                    "phase": phase,
                    "step": step,
                    "sample": 10 + b,
                    "pos": t,
                    "gold": gold,
                    "top_ids": best.tolist(),
                }
                row |= {"nll": -float(log_p[b, t - 1, gold]), "gap": (x.max() - x[best]).tolist()}
                row["types"] = {name for name, by in (("first", 2), ("second", 3)) if gold % by == 0}
                rows.append(row | {"correct": best[0] == gold})
    return pd.DataFrame(rows)


# --- a reader ---------------------------------------------------------------------------------------------


class RefusedError(Exception):
    pass


def read_json_format(path):
    data = json.loads(path.read_text(encoding="utf-8"))
    name, _, number = str(data.get("format")).partition("/")
    if name != "logitbox" or not number.isdecimal() or int(number) > 1:
        raise RefusedError(f"{path} has format {data.get('format')}, this reader knows logitbox/1")
    return data


def sessions(dump):
    """session.json of every owner, in recording order."""
    if not (dump / "dump.json").is_file():
        raise RefusedError("not a dump")
    read_json_format(dump / "dump.json")
    found = []
    for file in (dump / "sessions").glob("*/session.json"):
        data = read_json_format(file)
        data["owner"] = f"{data['session']}-r{data['rank']}"
        if data["owner"] != file.parent.name:
            raise RefusedError(f"{file} says that it belongs to {data['owner']}")
        found.append(data)
    return sorted(found, key=lambda s: (int(s["session"].partition("-")[0]), s["session"], s["rank"]))


def journal(dump, owner):
    """Complete lines only; text after the last line break is torn."""
    file = dump / "sessions" / owner / "journal.jsonl"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def shards(dump, table):
    """(session, journal line, path) of a table's shards, in recording order."""
    for session in sessions(dump):
        for line in journal(dump, session["owner"]):
            if line["event"] == "shard" and line["table"] == table:
                yield session, line, dump / table / session["owner"] / line["name"].rpartition("/")[2]


def problems(dump, table):
    """What is wrong in a table's folder: damaged shards and strays."""
    found, listed = {}, set()
    for _, line, path in shards(dump, table):
        listed.add(path)
        if not path.exists():
            found[path.name] = "missing"
        elif path.stat().st_size != line["bytes"]:
            found[path.name] = "size"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != line["sha256"]:
            found[path.name] = "checksum"
    return found | {path.name: "stray" for path in (dump / table).glob("*/*") if path not in listed}


def hidden_from(dump, session):
    ordinal = int(session["session"].partition("-")[0])
    later = [s for s in sessions(dump) if int(s["session"].partition("-")[0]) > ordinal]
    return min((s["resume_from"] for s in later if s["resume_from"] is not None), default=None)


def read_tokens(dump):
    """The visible rows as one Arrow table, type bits as a list of names."""
    parts = []
    for session, _, path in shards(dump, "tokens"):
        table = pq.ParquetFile(path).read()
        names = session["record"]["types"]["names"]
        bits = table["types"].to_pylist()
        table = table.append_column(
            "type_names", [[[n for i, n in enumerate(names) if b >> i & 1] for b in bits]]
        )
        if (start := hidden_from(dump, session)) is not None:
            phase, step = table["phase"].to_pylist(), table["step"].to_pylist()
            table = table.filter(
                pa.array([p != "train" or s < start for p, s in zip(phase, step, strict=True)])
            )
        parts.append(table)
    return pa.concat_tables(parts, promote_options="default")


SQL = """
with shard as (
  select *, cast(split_part(session, '-', 1) as int) as ordinal, session || '-r' || rank as owner,
  from read_json($sessions, columns={session: 'varchar', rank: 'int', resume_from: 'bigint'})
), token as (
  select *, split_part(split_part(filename, '/tokens/', 2), '/', 1) as owner, split_part(filename, '/', -1) as name
  from read_parquet($tokens, union_by_name=true, filename=true)
), line as (
  select split_part(split_part(filename, '/sessions/', 2), '/', 1) as owner, name
  from read_json($journals, format='newline_delimited', filename=true) where event = 'shard' and "table" = 'tokens'
)
select token.* from token join line using (owner, name) join shard using (owner)
where not (phase = 'train' and exists (
  from shard as later where later.ordinal > shard.ordinal and token.step >= later.resume_from))
"""


def duckdb_tokens(dump):
    """The visible rows as a DuckDB relation."""
    parameters = {
        "tokens": f"{dump}/tokens/*/*.parquet",
        "sessions": f"{dump}/sessions/*/session.json",
        "journals": f"{dump}/sessions/*/journal.jsonl",
    }
    connection = duckdb.connect()
    connection.execute("set threads = 1")
    connection.execute(f"create table visible as {SQL}", parameters)
    return connection


# --- the strangers at work --------------------------------------------------------------------------------


def test_pyarrow_reads_what_was_recorded_in_recording_order(recorded):
    tokens, truth = read_tokens(recorded[0]), _truth(recorded)
    assert tokens.num_rows == len(truth)
    assert 0 < truth["correct"].mean() < 1
    for name in ("phase", "step", "sample", "pos", "gold", "top_ids"):
        assert tokens[name].to_pylist() == truth[name].tolist(), name
    assert tokens["nll"].to_numpy() == pytest.approx(truth["nll"].to_numpy(), abs=2e-6)
    rank = tokens["n_gt"].to_numpy() + tokens["n_eq_before"].to_numpy()
    assert ((rank == 0) == truth["correct"]).all()
    assert [set(names) for names in tokens["type_names"].to_pylist()] == truth["types"].tolist()
    gap = np.array([[float(value) for value in row] for row in tokens["top_gap"].to_pylist()])
    assert gap == pytest.approx(np.array(truth["gap"].tolist()), rel=2**-11, abs=1e-6)


def test_columns_that_a_session_lacks_are_null(recorded):
    tokens = read_tokens(recorded[0]).to_pandas()
    lacking = (tokens["step"] < 1) | (
        (tokens["phase"] == "eval") & (np.arange(len(tokens)) < len(tokens) // 2)
    )
    assert (tokens["logmass_low"].isna() == lacking).all()
    assert (tokens["lse_beta"].isna() == (tokens["phase"] == "train")).all()


def test_duckdb_computes_accuracy_and_mean_loss_from_the_files(recorded):
    connection, truth = duckdb_tokens(recorded[0]), _truth(recorded)
    query = """select phase, count(*), avg((n_gt + n_eq_before = 0)::int), avg(nll::double) from visible
               where flags & 1 = 1 group by phase order by phase"""
    want = truth.groupby("phase").agg(n=("nll", "size"), accuracy=("correct", "mean"), nll=("nll", "mean"))
    rows = connection.execute(query).fetchall()
    assert [row[0] for row in rows] == want.index.tolist()
    assert [row[1:] for row in rows] == [
        pytest.approx(tuple(row), rel=1e-6) for row in want.itertuples(index=False)
    ]


def test_duckdb_unpacks_the_lists(recorded):
    connection, truth = duckdb_tokens(recorded[0]), _truth(recorded)
    unpacked = connection.execute(
        "select unnest(top_ids) as id, unnest(top_gap)::double as gap from visible order by phase, step, sample, pos"
    ).fetchall()
    truth = truth.sort_values(["phase", "step", "sample", "pos"])
    want = [(i, g) for row in truth.itertuples() for i, g in zip(row.top_ids, row.gap, strict=True)]
    ids, gaps = zip(*unpacked, strict=True)
    assert ids == tuple(i for i, _ in want)
    assert gaps == pytest.approx([g for _, g in want], rel=2**-11, abs=1e-6)


def test_pandas_reads_every_table(recorded):
    frames = {
        table: pd.concat([pd.read_parquet(path) for *_, path in shards(recorded[0], table)])
        for table in ("tokens", "samples", "batches", "scalars")
    }
    joined = frames["tokens"].merge(frames["samples"].drop_duplicates(["sample", "dataset"], keep="last"))
    assert len(joined) == len(frames["tokens"])
    assert dict(zip(joined["sample"], joined["source"], strict=True)) == {10: "x", 11: "y", 12: "y"}
    assert frames["batches"]["n_recorded"].sum() == len(frames["tokens"])
    stored = [pq.ParquetFile(path).read()["value"].to_pylist() for *_, path in shards(recorded[0], "scalars")]
    assert all(len(values) == 1 and np.isnan(values[0]) for values in stored)  # stored as NaN, not as null


def test_shards_use_allowed_encodings_only(recorded):
    for path in recorded[0].rglob("*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                assert column.compression in ("UNCOMPRESSED", "SNAPPY", "ZSTD")
                assert set(column.encodings) <= {"PLAIN", "RLE", "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"}
                assert (
                    column.path_in_schema != "top_gap.list.element"
                    or "BYTE_STREAM_SPLIT" not in column.encodings
                )


@pytest.fixture
def small(tmp_path):
    _record(tmp_path / "run", 300)
    return tmp_path / "run"


def test_a_stranger_finds_nothing_wrong_in_a_sound_dump(small):
    assert problems(small, "tokens") == {}
    assert len(list(shards(small, "tokens"))) >= 2


@pytest.mark.parametrize("found", ["missing", "size", "checksum"])
def test_a_stranger_finds_a_damaged_shard(small, found):
    path = next(path for *_, path in shards(small, "tokens"))
    content = path.read_bytes()
    path.unlink()
    if found != "missing":
        path.write_bytes(
            content[:-7] if found == "size" else content[:40] + bytes([content[40] ^ 1]) + content[41:]
        )
    assert problems(small, "tokens") == {path.name: found}


def test_a_stray_shard_and_a_torn_line_are_not_read(small):
    before = read_tokens(small)
    owner = sessions(small)[0]["owner"]
    first = next(path for *_, path in shards(small, "tokens"))
    first.with_name("000099.parquet").write_bytes(first.read_bytes())
    line = {
        "event": "shard",
        "table": "tokens",
        "name": "000099.parquet",
        "rows": 1,
        "bytes": 1,
        "sha256": "",
    }
    with (small / "sessions" / owner / "journal.jsonl").open("a") as stream:
        stream.write(json.dumps(line))  # killed before the line break
    assert problems(small, "tokens") == {"000099.parquet": "stray"}
    assert read_tokens(small).equals(before)


def test_a_newer_format_is_refused_in_either_file(small):
    for file in (small / "dump.json", next(small.glob("sessions/*/session.json"))):
        text = file.read_text()
        file.write_text(text.replace("logitbox/1", "logitbox/2"))
        with pytest.raises(RefusedError, match="logitbox/2"):
            sessions(small)
        file.write_text(text)
    assert len(sessions(small)) == 1


def test_unknown_keys_events_files_and_columns_are_ignored(small):
    before = read_tokens(small)
    session_file = next(small.glob("sessions/*/session.json"))
    session_file.write_text(json.dumps(json.loads(session_file.read_text()) | {"later": {"x": 1}}))
    with session_file.with_name("journal.jsonl").open("a") as stream:
        stream.write('{"event": "later", "x": [1]}\n')
    (small / "later").mkdir()
    assert read_tokens(small).equals(before)


def test_the_documented_keys_are_those_that_are_written(small):
    session = json.loads(next(small.glob("sessions/*/session.json")).read_text())
    keys = """format session rank world every accumulation resume_from vocabulary_fingerprint has_token_text bos eos
              length_unit started versions record"""
    assert set(session) == set(keys.split())
    record = "vocab_size k groups ordered types probes scope lse_beta betas detailed answers min_prob"
    assert set(session["record"]) == set(record.split())
    assert set(json.loads((small / "dump.json").read_text())) == {"format", "id", "created", "created_by"}
    fingerprint = hashlib.sha256(str(V).encode()).hexdigest()[:32]
    assert session["vocabulary_fingerprint"] == fingerprint


TYPES = """
phase string | dataset string | pass int32 | step int64 | epoch float | micro int32 | rank int32 | sample int64 | pos int32
gold int32 | flags uint32 | types uint32 | weight float | nll float | top_nll float | lse float | mean_logit float
n_finite int32 | n_gt int32 | n_eq int32 | n_eq_before int32 | entropy float | top_ids list<element: int32>
top_gap list<element: halffloat> | tail_mass float | lse_beta list<element: float>
"""


def test_the_documented_columns_are_those_that_are_written(small):
    schema = pq.read_schema(next(path for *_, path in shards(small, "tokens")))
    got = {field.name: str(field.type) for field in schema}
    want = dict(entry.split(maxsplit=1) for line in TYPES.strip().splitlines() for entry in line.split(" | "))
    assert got == want
