"""Values that only a bug averages, against float64 arithmetic on whole rows of logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from logitbox.analysis.audit.hypotheses.values import VALUES, columns_of, evaluate, values_of
from logitbox.dumps.definitions.rows import Rows
from logitbox.dumps.spec import BETAS, RecordSpec, build_spec

V = 30
NEEDED = (
    "top_nll",
    "lse",
    "entropy",
    "tail_mass",
    "mean_logit",
    "weight",
    "nll_unshifted",
    "nll_next",
    "flags",
    "types",
)
NEEDED += ("n_finite", "top_1", "top_gap", "kept", "gold_bytes", "lse_beta")
ROWS = 60


def spec_of(k: int) -> RecordSpec:
    return build_spec(V, k, None, None, None, probes=True, lse_beta="always", scope="all", detailed=False)


def log_sum(x: np.ndarray) -> np.ndarray:
    m = x.max(axis=1, keepdims=True)
    return (m + np.log(np.exp(x - m).sum(axis=1, keepdims=True)))[:, 0]


def rows_of(x: np.ndarray, gold: np.ndarray, k: int, kept: int | None = None) -> Rows:
    """What a dump holds of these logits: columns rounded to float32, gaps to float16, lists cut to `kept`."""
    single = {}
    lse, best = log_sum(x), x.max(axis=1)
    at_gold = x[np.arange(len(x)), gold]
    log_p = x - lse[:, None]
    p = np.exp(log_p)
    ids = np.argsort(-x, axis=1, kind="stable")
    listed = k if kept is None else kept
    single["nll"], single["top_nll"], single["lse"] = lse - at_gold, lse - best, lse
    single["entropy"] = -np.where(p > 0, p * np.where(p > 0, log_p, 0), 0).sum(axis=1)
    single["tail_mass"] = np.take_along_axis(p, ids[:, listed:], axis=1).sum(axis=1)
    finite = np.isfinite(x)
    single["mean_logit"] = np.where(finite, x, 0).sum(axis=1) / finite.sum(axis=1)
    single["weight"], single["nll_unshifted"], single["nll_next"] = (np.ones(len(x)) for _ in range(3))
    columns = {name: value.astype(np.float32).astype(np.float64) for name, value in single.items()}
    gap = (best[:, None] - np.take_along_axis(x, ids[:, :k], axis=1)).astype(np.float16).astype(np.float64)
    gap[:, listed:] = np.inf
    above = x > at_gold[:, None]
    equal = x == at_gold[:, None]
    columns |= {
        "gold": gold,
        "flags": np.ones(len(x), dtype=np.int64),
        "types": np.zeros(len(x), dtype=np.int64),
        "n_finite": finite.sum(axis=1),
        "n_gt": above.sum(axis=1),
        "n_eq": equal.sum(axis=1) - 1,
        "n_eq_before": (equal & (np.arange(V) < gold[:, None])).sum(axis=1),
        "top_1": ids[:, 0],
        "top_gap": gap,
        "kept": np.full(len(x), listed),
        "gold_bytes": np.ones(len(x)),
        "lse_beta": np.stack([log_sum(beta * x) for beta in BETAS], axis=1)
        .astype(np.float32)
        .astype(np.float64),
    }
    return Rows(columns, spec_of(k))


def logits_of(
    seed: int, scale: float, offset: float, coarse: float, masked: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [ROWS, V], some at −inf, and gold ids that are not."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, scale, (ROWS, V)) + offset
    x = np.round(x / coarse) * coarse if coarse else x
    x = x.astype(np.float32).astype(np.float64)
    x[:, :masked] = -np.inf
    return x, rng.integers(masked, V, ROWS)


LOGITS = st.builds(
    logits_of,
    st.integers(0, 1 << 16),
    st.sampled_from([0.01, 0.3, 1.0, 4.0, 30.0, 90.0]),
    st.sampled_from([0.0, -40.0, 35.0, 60.0, 200.0, -120.0]),
    st.sampled_from([0.0, 0.5, 4.0]),
    st.sampled_from([0, 0, 3]),
)


def assert_inside(truth: np.ndarray, found: dict[str, np.ndarray], name: str) -> None:
    low, high = found[f"{name}.low"], found[f"{name}.high"]
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert (low <= truth).all(), name
    assert (truth <= high).all(), name


@settings(max_examples=15, deadline=None)
@given(logits=LOGITS, k=st.sampled_from([1, 5, 12, 25, V]))
@example(logits=logits_of(0, 30.0, 60.0, 0.0, 0), k=5)
def test_bounds_hold_the_truth(logits: tuple[np.ndarray, np.ndarray], k: int) -> None:
    x, gold = logits
    found = evaluate(rows_of(x, gold, k))
    clamped = np.clip(x, -50, 50)
    assert_inside(log_sum(clamped) - clamped[np.arange(ROWS), gold], found, "nll_clamped")
    p = np.sort(np.exp(x - log_sum(x)[:, None]), axis=1)[:, ::-1]
    for count in {1, 5, 10, 20, k}:
        if f"entropy_top{count}.low" not in found:
            assert count > k or count not in (5, 10, 20, k)
            continue
        best = p[:, :count]
        assert_inside(-(best * np.log(np.where(best > 0, best, 1))).sum(1), found, f"entropy_top{count}")
        q = best / best.sum(1, keepdims=True)
        renormalised = -(q * np.log(np.where(q > 0, q, 1))).sum(1)
        assert_inside(renormalised, found, f"entropy_top{count}_renormalised")


@pytest.mark.parametrize(("scale", "width"), [(1.0, 3e-3), (4.0, 2e-3)])
def test_bounds_are_tight_where_logits_are_ordinary(scale: float, width: float) -> None:
    found = evaluate(rows_of(*logits_of(3, scale, 5.0, 0.0, 0), k=25))
    for name in ("entropy_top5", "entropy_top20", "entropy_top25", "entropy_top20_renormalised"):
        assert (found[f"{name}.high"] - found[f"{name}.low"]).mean() < width
    assert (found["nll_clamped.high"] - found["nll_clamped.low"]).max() < 1e-4


def test_a_clamp_that_cuts_is_still_told_well() -> None:
    x, gold = logits_of(4, 4.0, 46.0, 0.0, 0)
    assert ((x > 50).any(axis=1) & (x.min(axis=1) < 50)).mean() > 0.9
    found = evaluate(rows_of(x, gold, k=12))
    unclamped = log_sum(x) - x[np.arange(ROWS), gold]
    assert (found["nll_clamped.high"] - found["nll_clamped.low"]).mean() < 0.02
    assert abs(found["nll_clamped.low"] - unclamped).mean() > 0.2


def test_cut_lists_give_no_entropy_beyond_them() -> None:
    x, gold = logits_of(5, 3.0, 0.0, 0.0, 0)
    found = evaluate(rows_of(x, gold, k=25, kept=7))
    assert np.isnan(found["entropy_top10.low"]).all()
    assert np.isnan(found["entropy_top25_renormalised.high"]).all()
    p = np.sort(np.exp(x - log_sum(x)[:, None]), axis=1)[:, :-6:-1]
    assert_inside(-(p * np.log(p)).sum(1), found, "entropy_top5")


@settings(max_examples=10, deadline=None)
@given(logits=LOGITS)
def test_exact_values_are_those_of_the_logits(logits: tuple[np.ndarray, np.ndarray]) -> None:
    x, gold = logits
    found = evaluate(rows_of(x, gold, k=5))
    at_gold = x[np.arange(ROWS), gold]
    lse = log_sum(x)
    near = 4e-7 * np.maximum(1, abs(x[np.isfinite(x)]).max())  # of float32
    for beta in BETAS:
        nll = log_sum(beta * x) - beta * at_gold
        np.testing.assert_allclose(found[f"nll_beta_{beta:g}"], nll, rtol=1e-6, atol=4 * near)
    listed = np.isfinite(x)
    uniform = -(np.where(listed, x - lse[:, None], 0).sum(1) / listed.sum(1))
    np.testing.assert_allclose(found["uniform_nll"], uniform, rtol=1e-6, atol=near)
    np.testing.assert_allclose(found["lse2"], lse**2, rtol=1e-6)
    assert (found["hit_tied"] == (at_gold == x.max(1))).all()
    assert (found["hit_tied_top5"] == (at_gold >= np.sort(x, axis=1)[:, -5])).all()
    p = np.exp(x.max(1) - lse)
    inside = np.where((p > 0) & (p < 1), p, 0.5)
    binary = np.where(p == inside, -(inside * np.log(inside) + (1 - inside) * np.log1p(-inside)), 0)
    np.testing.assert_allclose(found["binary_entropy_nats"], binary, atol=1e-5)


def test_what_is_of_an_unknown_gold_token_is_unknown() -> None:
    x, gold = logits_of(6, 3.0, 0.0, 0.0, 0)
    rows = rows_of(x, gold, k=12)
    columns = {name: rows[name].copy() for name in ("gold", "n_gt", "n_eq", "n_eq_before", "nll")}
    for name, column in columns.items():
        column[:9] = np.nan if name == "nll" else -1
    found = evaluate(Rows({**{name: rows[name] for name in NEEDED}, **columns}, rows.spec))
    for name in (
        "nll",
        "correct",
        "correct_top5",
        "hit_tied",
        "weighted_nll",
        "nll_beta_2",
        "nll_clamped.high",
    ):
        assert np.isnan(found[name][:9]).all()
        assert not np.isnan(found[name][9:]).any()
    for name in ("entropy", "lse2", "confidence", "entropy_top5.low", "nll_unshifted"):
        assert not np.isnan(found[name]).any()


def test_values_follow_what_a_session_records() -> None:
    bare = build_spec(
        V, 4, None, None, None, probes=False, lse_beta="never", scope="supervised", detailed=False
    )
    names = {value.name for value in values_of(bare)}
    assert names.isdisjoint({"nll_beta_2", "nll_unshifted", "correct_next", "entropy_top5.low"})
    assert {"hit_tied", "entropy_top4.low", "entropy_top4_renormalised.high"} <= names
    assert {"lse_beta", "nll_next"}.isdisjoint(columns_of(bare))
    every = [value.name for value in values_of(spec_of(12))]
    assert len(set(every)) == len(every) == len(VALUES) + 4 * 3
