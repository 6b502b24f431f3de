"""Best temperatures of a dump's token types against direct optimisation over full logits."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from logitbox.analysis.calibration import calibration
from logitbox.analysis.calibration.temperatures import Heat, heat_of, heats
from logitbox.analysis.pairs.choice import Choice, choose
from logitbox.analysis.scaling import COLUMNS, bands, nll_at
from logitbox.dumps.dump import open_dump
from logitbox.dumps.flags import Flag
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

V, T, N = 300, 10, 60
TYPES = ["plain", "loud", "quiet", "never"]
SCALE = {"plain": 1.0, "loud": 1.6, "quiet": 0.75}


class Log:
    """What went in: float64 logits, gold, type, place of every row."""

    def __init__(self):
        self.rows = []

    def record(self, rec, seed, *, samples=range(N), flags=None, names=TYPES, **where):
        rng = np.random.default_rng(seed)
        n = len(samples)
        x = rng.normal(0, 2.5, (n, T, V)).astype(np.float32)
        kind = rng.integers(0, 3, (n, T))
        gold = np.argmax(x + rng.gumbel(size=x.shape), axis=-1)
        x *= np.array(list(SCALE.values()), np.float32)[kind][..., None]
        rec.record(
            torch.from_numpy(x),
            torch.from_numpy(gold),
            types=torch.from_numpy(1 << np.array([names.index(name) for name in SCALE])[kind]),
            sample=list(samples),
            flags=None if flags is None else torch.from_numpy(flags),
            shift=False,
            **where,
        )
        keep = np.ones(n * T, bool) if flags is None else flags.reshape(-1) == 0
        for name, part in (("x", x.reshape(-1, V)), ("gold", gold.reshape(-1)), ("kind", kind.reshape(-1))):
            where = {**where, name: part[keep]}
        where["sample"] = np.repeat(list(samples), T)[keep]
        self.rows.append(where)

    def of(self, kind=None, phase="eval", keep=None, **place):
        parts = []
        for row in self.rows:
            if row["phase"] == phase and all(row.get(name, "") == value for name, value in place.items()):
                at = np.ones(len(row["gold"]), bool) if kind is None else row["kind"] == TYPES.index(kind)
                at &= True if keep is None else keep(row)
                parts.append((row["x"][at].astype(np.float64), row["gold"][at]))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def mean_nll(rows, beta):
    x, gold = rows
    return float((logsumexp(beta * x, axis=1) - beta * x[np.arange(len(x)), gold]).mean())


def best_of(rows):
    """(T, mean nll)."""
    found = minimize_scalar(
        lambda b: mean_nll(rows, b), bounds=(0.25, 2), method="bounded", options={"xatol": 1e-5}
    )
    return 1 / found.x, found.fun


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path, log = tmp_path_factory.mktemp("dumps") / "run", Log()
    hidden = Log()
    options = {"vocab": V, "k": 32, "types": TYPES, "shard_rows": 250}
    with Recorder(path, **options) as rec:
        log.record(rec, 1, phase="train", step=1)
        hidden.record(rec, 2, phase="train", step=2)
        log.record(rec, 3, phase="eval", step=2, dataset="a")
        log.record(rec, 4, phase="eval", step=2, dataset="b")
        rec.samples(
            pl.DataFrame({"sample": range(N), "dataset": ["a"] * N, "source": ["web"] * 30 + ["book"] * 30})
        )
    with Recorder(path, resume_from=2, **{**options, "types": TYPES[::-1]}) as rec:
        rng = np.random.default_rng(9)
        repeated = np.where(rng.random((N, T)) < 0.2, int(Flag.DUPLICATE), 0)
        bits = Log()
        bits.record(rec, 5, phase="val", step=3, flags=repeated, names=TYPES[::-1])
        log.rows += bits.rows
        bad = torch.full((1, T, V), torch.nan)
        rec.record(
            bad,
            torch.zeros(1, T, dtype=torch.long),
            sample=[0],
            phase="eval",
            dataset="a",
            step=2,
            shift=False,
        )
    return open_dump(path), log


def check(found: Heat, rows) -> None:
    temperature, nll = best_of(rows)
    assert found.tokens == len(rows[1])
    assert found.temperature == pytest.approx(temperature, rel=0.01)
    assert found.nll == pytest.approx(nll, abs=1e-3)
    assert found.nll_before == pytest.approx(mean_nll(rows, 1), abs=1e-6)
    assert found.low <= temperature <= found.high
    assert found.low <= found.temperature <= found.high
    assert found.nll_low <= nll <= found.nll_high
    assert not found.reason
    assert not found.at_edge


def test_every_type_has_its_own_temperature(recorded):
    dump, log = recorded
    found = heats(dump, "eval")
    assert set(found) == {"", *SCALE}
    check(found[""], log.of())
    for name, scale in SCALE.items():
        check(found[name], log.of(name))
        assert found[name].temperature == pytest.approx(scale, rel=0.1)
        assert heat_of(dump, "eval", name) == found[name]
    assert str(found["loud"]).startswith(f"T = {found['loud'].temperature:.3g} (between 1.")


def test_tokens_are_those_that_calibration_counts(recorded):
    dump, _ = recorded
    counted = calibration(dump).frame.select("phase", "type", "n").rows()
    found = [
        (phase, name, heat.tokens)
        for phase in ("eval", "train", "val")
        for name, heat in heats(dump, phase).items()
    ]
    assert sorted(counted) == sorted(found)


def test_where(recorded):
    dump, log = recorded
    check(heat_of(dump, "eval", where={"dataset": "b"}), log.of(dataset="b"))
    check(heat_of(dump, "eval", "loud", {"dataset": "a", "step": 2}), log.of("loud", dataset="a"))
    book = log.of(dataset="a", keep=lambda row: row["sample"] >= 30)
    check(heat_of(dump, "eval", where={"source": "book"}), book)
    check(heat_of(dump, "eval", where={"source": None}), log.of(dataset="b"))
    first = log.of("quiet", keep=lambda row: np.arange(len(row["gold"])) % T < 5)
    check(heat_of(dump, "eval", "quiet", {"pos": lambda pos: pos < 5}), first)


def test_duplicates_are_left_out(recorded):
    dump, log = recorded
    found = heat_of(dump, "val", "loud")
    check(found, log.of("loud", "val"))
    with pytest.raises(InputError, match="type 'never' in phase val: no token"):
        heat_of(dump, "val", "never")
    with pytest.raises(InputError, match="no token"):
        heat_of(dump, "val", where={"step": 99})
    with pytest.raises(InputError, match="phase is 'test'; the dump has eval, train, val"):
        heats(dump, "test")


def test_bounds_where_lse_beta_was_not_recorded(recorded):
    """Train rows have none, and those of step 2 were replaced."""
    dump, log = recorded
    found = heats(dump, "train")
    for name in ("", *SCALE):
        rows = log.of(name or None, "train")
        temperature, nll = best_of(rows)
        heat = found[name]
        assert (heat.temperature, heat.nll) == (None, None)
        assert heat.tokens == len(rows[1])
        assert heat.nll_before == pytest.approx(mean_nll(rows, 1), abs=1e-6)
        assert heat.low <= temperature <= heat.high
        assert heat.nll_low <= nll <= heat.nll_high
        assert heat.reason.startswith("lse_beta was not recorded; bounds from the top 32")
    assert found["plain"].high - found["plain"].low < 0.1
    assert found["loud"].low > 1.3
    assert "bounds from the top 32" in str(found["loud"])


def test_bounds_that_say_nothing_say_so(tmp_path):
    """Of a tiny top k, over-confident: only the slope at T = 1 is known."""
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1.0, (200, 3000)).astype(np.float32)
    gold = np.argmax(x / 3 + rng.gumbel(size=x.shape), axis=1)
    with Recorder(tmp_path / "run", vocab=3000, k=1, lse_beta="never") as rec:
        rec.record(torch.from_numpy(x), torch.from_numpy(gold), step=0, phase="eval", shift=False)
    found = heat_of(open_dump(tmp_path / "run"), "eval")
    assert found.temperature is None
    assert found.at_edge
    assert 1 <= found.low < 1.5
    assert found.high == 4
    assert "bounds from the top 1" in found.reason
    assert f"the best T is {found.low:.3g} or more" in str(found)
    rows = (x.astype(np.float64), gold)
    assert found.nll_low <= best_of(rows)[1] <= found.nll_high


def test_a_session_without_lse_beta_makes_bounds_of_it(tmp_path):
    log, path = Log(), tmp_path / "run"
    for mode, seed in (("eval", 1), ("never", 2)):
        with Recorder(path, vocab=V, k=32, types=TYPES, lse_beta=mode) as rec:
            log.record(rec, seed, phase="eval", step=seed)
    found = heat_of(open_dump(path), "eval", "loud")
    temperature, nll = best_of(log.of("loud"))
    assert found.temperature is None
    assert found.low <= temperature <= found.high
    assert found.nll_low <= nll <= found.nll_high
    assert found.reason.startswith(f"lse_beta was not recorded for {len(log.of('loud', step=2)[1])} of")
    check(heat_of(open_dump(path), "eval", "loud", {"step": 1}), log.of("loud", step=1))


@pytest.mark.parametrize("phase", ["eval", "train"])
def test_mean_nll_at_every_temperature(recorded, phase):
    dump, log = recorded
    rows = log.of(None, phase)
    choice = choose(dump, phase, "all" if phase == "eval" else 1)
    chunks = [
        {name: values[np.isfinite(chunk["nll"])] for name, values in chunk.items()}
        for chunk in choice.scan(COLUMNS)
    ]
    betas = np.linspace(0.5, 2, 10).tolist()
    sums = sum(bands(betas, chunk).sum(axis=2) for chunk in chunks) / len(rows[1])
    for beta, (estimate, floor, low, high) in zip(betas, sums, strict=True):
        truth = mean_nll(rows, beta)
        assert low <= floor <= truth + 2e-5
        assert truth <= high + 2e-5
        if phase == "eval":
            assert estimate == pytest.approx(truth, abs=1e-3)
            found = np.concatenate([nll_at(beta, chunk) for chunk in chunks])
            assert found.mean() == pytest.approx(estimate, abs=1e-9)


def test_three_passes(recorded, monkeypatch):
    dump, _ = recorded
    scans = []
    scan = Choice.scan
    monkeypatch.setattr(Choice, "scan", lambda self, columns: scans.append(columns) or scan(self, columns))
    heats(dump, "eval")
    assert len(scans) == 3
    assert "top_gap" not in scans[0]
