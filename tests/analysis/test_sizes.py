"""What `logitbox info` says of a dump's size, against the files."""

import pyarrow.parquet as pq
import pytest
import torch

import logitbox as lb
from logitbox.analysis.overview import overview
from logitbox.analysis.sizes import STRUCTURE, column_sizes
from logitbox.dumps.recorder import Recorder
from logitbox.errors import DamagedDumpError

V = 300


@pytest.fixture
def path(tmp_path):
    """Two sessions, the second with a group more, in three shards."""
    for number, groups in enumerate((None, {"low": range(9)})):
        with Recorder(tmp_path / "dump", V, k=8, groups=groups, shard_rows=100) as rec:
            for step in range(2 - number):
                rec.record(torch.randn(2, 61, V), torch.randint(V, (2, 61)), step=step)
    return tmp_path / "dump"


def test_columns_and_structure_add_up_to_the_files(path):
    files = sorted(path.glob("tokens/*/*.parquet"))
    sizes = column_sizes(lb.open(path))
    assert len(files) == 3
    assert sizes["bytes"].sum() == sum(file.stat().st_size for file in files)
    assert sizes["bytes_per_token"].sum() == pytest.approx(sizes["bytes"].sum() / 360)
    assert sizes["share"].sum() == pytest.approx(1.0)
    assert sizes["column"][-1] == STRUCTURE
    assert set(sizes["column"]) == {*pq.read_schema(files[-1]).names, STRUCTURE}
    assert sizes["bytes"][:-1].to_list() == sorted(sizes["bytes"][:-1], reverse=True)


def test_a_list_is_one_column_with_all_its_bytes(path):
    sizes = dict(column_sizes(lb.open(path)).select("column", "bytes").rows())
    total = 0
    for file in path.glob("tokens/*/*.parquet"):
        group = pq.ParquetFile(file).metadata.row_group(0)
        chunks = [group.column(i) for i in range(group.num_columns)]
        total += sum(c.total_compressed_size for c in chunks if c.path_in_schema == "top_ids.list.element")
    assert sizes["top_ids"] == total > 0


def test_the_overview_tells_it(path):
    found = overview(lb.open(path))
    assert found.to_json()["columns"] == found.columns.to_dicts()
    assert found.bytes_per_token == pytest.approx(found.columns["bytes"].sum() / 360)
    assert f"{found.bytes_per_token:.1f} bytes a recorded token" in found.verdict


def test_a_dump_without_tokens_has_no_such_figure(tmp_path):
    Recorder(tmp_path / "dump", V).close()
    found = overview(lb.open(tmp_path / "dump"))
    assert (found.bytes_per_token, len(found.columns)) == (None, 0)
    assert "bytes a recorded token" not in found.verdict


def test_a_shard_that_is_no_parquet_file_is_named(path):
    dump = lb.open(path)
    file = min(path.glob("tokens/*/*.parquet"))
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(DamagedDumpError, match=r"shard tokens/.* cannot be read"):
        column_sizes(dump)
