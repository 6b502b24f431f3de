"""How the fused kernel is reached: views and parts of tensors, the choice of a reduction, compiling without a GPU."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from dumps_oracle import spec_of
from interpreted import DEVICE, agree, quick_interpreter, run
from polars.testing import assert_frame_equal

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.reduce import GroupIndex, Targets, choose, fused, reduce_logits, reference
from logitbox.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of inf − inf in the interpreter


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    with quick_interpreter():
        yield


@pytest.mark.parametrize("chosen", [None, [9, 0, 4]])
@pytest.mark.parametrize("view", ["turned", "sliced", "every other", "batch of rows"])
def test_views_are_read_where_they_are(view: str, chosen: list[int] | None) -> None:
    if view == "turned":
        logits = torch.randn(300, 10).T
    elif view == "sliced":
        logits = torch.randn(2, 6, 300)[:, :-1]
    elif view == "every other":
        logits = torch.randn(20, 600)[::2, 1::2]
    else:
        logits = torch.randn(5, 2, 300).transpose(0, 1)
    before = logits.clone()
    gold = torch.randint(0, 300, (10,))
    rows = None if chosen is None else torch.tensor(chosen)
    gold = gold if rows is None else gold[rows]
    spec = spec_of(300, 2)
    want = reference.reduce_logits(logits, rows, Targets(gold), GroupIndex(spec), lse_beta=False)
    agree(run(logits, gold, spec, rows, lse_beta=False), want)
    assert torch.equal(logits, before)


def test_many_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(fused, "ORDERED_AT_ONCE", 1)
    logits = torch.randn(5, 260)
    gold = torch.tensor([8, 9, 10, 11, 259])
    spec = spec_of(260, 2, groups={"g": range(5, 15)}, ordered={"g": {"temperature": 2.0}})
    for rows in (None, torch.tensor([4, 1, 0, 2, 3])):
        want = reference.reduce_logits(logits, rows, Targets(gold), GroupIndex(spec), lse_beta=True)
        agree(run(logits, gold, spec, rows), want)


def test_way_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    make = fused.reduce_logits
    monkeypatch.setattr(fused, "reduce_logits", lambda *a, **o: calls.append("fused") or make(*a, **o))
    logits, spec = torch.randn(1, 9), spec_of(9, 2)

    def take(x: torch.Tensor, way: choose.Way | None = None) -> dict[str, torch.Tensor]:
        gold = torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
        return reduce_logits(x, None, Targets(gold), GroupIndex(spec), lse_beta=False, way=way)

    take(logits)
    take(logits, "reference")
    assert calls == []  # the interpreter is never taken unasked
    take(logits.to(DEVICE), "fused")
    monkeypatch.setenv("LOGITBOX_REDUCE", "fused")
    take(logits.to(DEVICE))
    assert calls == ["fused", "fused"]
    assert take(logits.double())["nll"].dtype == torch.float32
    assert take(logits[:0])["nll"].shape == (0,)
    assert calls == ["fused", "fused"]  # float64 and no rows are the reference's
    monkeypatch.setenv("LOGITBOX_REDUCE", "gpu")
    with pytest.raises(InputError, match="'gpu'; allowed are auto, fused, reference"):
        take(logits)
    monkeypatch.setenv("LOGITBOX_REDUCE", "")
    monkeypatch.setattr(choose, "_has_triton", lambda: False)
    with pytest.raises(InputError, match="needs Triton"):
        take(logits, "fused")


def test_a_kernel_that_does_not_build_is_told_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(fused, "reduce_logits", broken)
    monkeypatch.setattr(choose, "_fits", lambda _: not choose._STATE.failed)
    monkeypatch.setattr(choose._STATE, "failed", False)
    arguments = torch.randn(1, 9), None, Targets(torch.tensor([1])), GroupIndex(spec_of(9, 2))
    with pytest.warns(RuntimeWarning, match="the slower reference is taken: Failed to find C compiler"):
        assert reduce_logits(*arguments, lse_beta=False)["nll"].isfinite()
    assert reduce_logits(*arguments, lse_beta=False)["nll"].isfinite()  # said once


def test_a_recorder_writes_the_same_dump(
    recorder: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, labels = torch.randn(2, 5, 300).mul(4).bfloat16(), torch.randint(0, 300, (2, 5))
    tables: dict[str, pl.DataFrame] = {}
    for way in ("reference", "fused"):
        monkeypatch.setenv("LOGITBOX_REDUCE", way)
        options = {"groups": {"g": range(9, 40)}, "ordered": {"g": {}}, "probes": True, "lse_beta": True}
        with recorder(300, k=4, at=tmp_path / way, **options) as rec:
            rec.record(logits.to(DEVICE), labels.to(DEVICE))
        tables[way] = open_dump(tmp_path / way).tokens.collect()
    assert tables["fused"].height == 10
    assert_frame_equal(tables["fused"], tables["reference"], rel_tol=4e-6, abs_tol=4e-6)


COMPILE = textwrap.dedent("""
    import sys
    sys.path.insert(0, sys.argv[1])
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from logitbox.dumps.reduce import kernel, tournament

    POINTERS = dict(rows="i64", gold="i64", left="i64", right="i64", ids="i64", spans="i32", members="u8", holds="u8",
                    counts="i32", top_ids="i32", logits=sys.argv[2])
    INTEGERS = dict(first="i32", width="i32", stride_b="i64", stride_t="i32", V="i32", n_ids="i32", group="i32")
    COMMON = dict(stride_v=1, HAS_ROWS=True, CONTIGUOUS=True, FTZ=True)
    KERNELS = [
        (kernel.scan_rows, dict(PROBES=True, BETAS=True, GROUPS=2, LISTED=2, NUMBERS=14, BLOCK=256)),
        (tournament.best_of_rows, dict(K=32, TILES=1024, BLOCK=256)),
        (tournament.tempered_sums, dict(BLOCK=256)),
        (tournament.gathered_sums, dict(GROUPS=2, NUMBERS=14, SIZE=256)),
    ]
    for function, constants in KERNELS:
        constants = COMMON | constants
        kinds, attributes = {}, {}
        for at, name in enumerate(function.arg_names):
            if name in constants:
                kinds[name] = "constexpr"
                continue
            kinds[name] = INTEGERS.get(name) or ("fp32" if name == "inverse" else "*" + POINTERS.get(name, "fp32"))
            if name not in ("n_ids", "group", "inverse"):
                attributes[(at,)] = [["tt.divisibility", 16]]
        source = ASTSource(fn=function, signature=kinds, constexprs=constants, attrs=attributes)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1, "enable_fp_fusion": True})
        print(function.__name__, made.asm["ptx"].count("v4.b32"), "ex2.approx.ftz" in made.asm["ptx"])
""")


def test_kernels_compile_for_a_gpu_without_one() -> None:
    """The interpreter takes more than the compiler does. Logits must be read 16 bytes at a time."""
    root = Path(choose.__file__).parents[3]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, str(root), "bf16"],
        capture_output=True, text=True, check=False, env=environment, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert int(lines["scan_rows"][0]) >= 1
    assert {name: fast for name, (_, fast) in lines.items()} == dict.fromkeys(lines, "True")
    assert len(lines) == 4


def test_a_kernel_that_no_device_has_proven_runs_only_where_it_is_asked_for(monkeypatch):
    on_device = SimpleNamespace(is_cuda=True)
    monkeypatch.setattr(choose, "_has_triton", lambda: True)
    monkeypatch.setattr(choose._STATE, "failed", False)
    assert not choose._fits(on_device)
    monkeypatch.setattr(choose, "IS_PROVEN", True)
    assert choose._fits(on_device)
    assert not choose._fits(SimpleNamespace(is_cuda=False))
