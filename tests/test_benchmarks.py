"""The measuring scripts run, in their smallest sizes, and write what they promise. What they measure is not looked at."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
HEAD = {"script", "device", "cpu_threads", "cuda", "versions", "measured"}


@pytest.fixture
def script(monkeypatch):
    """Load a script by its name, as if it were started from its own folder."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


def result(folder, name):
    (file,) = folder.glob(f"*-{name}.json")
    document = json.loads(file.read_text())
    assert set(document) >= HEAD
    assert document["versions"]["torch"] == torch.__version__
    return document


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device to measure")
def test_gpu_without_a_device_says_so(script, capsys, tmp_path):
    assert script("gpu").main(["--out", str(tmp_path)]) == 0
    assert "no CUDA device here: nothing was measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_gpu_on_the_processor(script, capsys, tmp_path):
    assert script("gpu").main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    runs = result(tmp_path, "gpu")["runs"]
    assert [(run["width"], run["dtype"]) for run in runs] == [
        (width, dtype) for dtype in ("bfloat16", "float32") for width in (700, 20_000)
    ]
    for run in runs:
        names = [figure["name"] for figure in run["figures"]]
        assert names == ["ours", "ours+beta", "naive", "compiled", "topk", "cross_entropy"]
        assert all(figure["ms"] or figure["name"] == "compiled" for figure in run["figures"])
        assert {"top_ids", "n_eq_before", "lse_beta", "logmass_spread"} < {c["name"] for c in run["checks"]}
    assert "WRONG" not in capsys.readouterr().out


def test_a_wrong_column_is_told(script):
    inputs = script("gpu_inputs")
    case = inputs.Case.make(8, 700, torch.bfloat16, "cpu", 0)
    right = inputs.truth(case, torch.arange(8))
    assert all(check.holds for check in inputs.checked(case, right))
    swapped = right | {"top_ids": right["top_ids"].flip(1), "nll": right["nll"] + 1e-4}
    assert [c.name for c in inputs.checked(case, swapped) if not c.holds] == ["nll", "top_ids"]
    assert not inputs.Check("nll", float("nan"), 1.0).holds


def test_size(script, capsys, tmp_path):
    script("size").main(["--tiny", "--rounds", "1", "--out", str(tmp_path)])
    document = result(tmp_path, "size")
    columns, sizes = document["columns"], document["bytes_per_token"]
    assert sizes["train"] == pytest.approx(sum(columns["train"].values()))
    assert sizes["train, min_prob=1e-3"] < sizes["train, min_prob=1e-5"] < sizes["train"] < sizes["eval"]
    assert sizes["raw bfloat16"] == 2000
    assert {"Megatron-style", "DistillKit-style", "JSONL.gz"} < set(sizes)
    assert all(rate["cpu"] > 0 for rate in document["writer_tokens_per_second"].values())


def test_overhead(script, capsys, tmp_path, recwarn, monkeypatch):
    arguments = ["--device", "cpu", "--model", "tiny", "--blocks", "1", "--steps", "6", "--threads", "1"]
    overhead = script("overhead")
    monkeypatch.setattr(overhead, "SLOWER", 4)
    overhead.main([*arguments, "--out", str(tmp_path)])
    document = result(tmp_path, "overhead-tiny")
    slow = document["slow_disk"]
    assert slow["dropped_batches"] > 0
    assert slow["recorded_rows"] + slow["dropped_rows_at_most"] == slow["steps"] * document["tokens_a_step"]
    assert set(document["overhead"]) == {"train columns", "with lse_beta", "min_prob=1e-5"}
