"""Temperature scaling from columns against float64 sums over full logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar
from scipy.special import logsumexp

from logitbox.analysis.convex import Known, lowest, pieces, reach
from logitbox.analysis.moments import mixture, two_gaps
from logitbox.analysis.node_means import MEMBER, NoFit
from logitbox.analysis.scaling import bands, nll_at
from logitbox.analysis.tail import NODES, _float16_values, gaps_of
from logitbox.analysis.tail_bounds import UNROUNDED
from logitbox.analysis.temperature import Fit, Range, fit, fits
from logitbox.errors import InputError

BETAS = (0.25, 0.5, 0.75, 1.5, 2.0)
V, ROWS = 1500, 200


def columns_of(x, gold, k):
    """What a dump holds of float64 logits [rows, V], in its dtypes."""
    x = np.asarray(x, np.float64)
    k = min(k, x.shape[1])
    lse, m = logsumexp(x, axis=1), x.max(axis=1)
    log_p = x - lse[:, None]
    p = np.exp(log_p)
    order = np.argsort(-x, axis=1, kind="stable")
    terms = np.where(p > 0, p * np.where(p > 0, log_p, 0), 0)
    return {
        "nll": (-log_p[np.arange(len(x)), gold]).astype(np.float32),
        "top_nll": (lse - m).astype(np.float32),
        "lse": lse.astype(np.float32),
        "entropy": (-terms.sum(axis=1)).astype(np.float32),
        "n_finite": np.isfinite(x).sum(axis=1).astype(np.int32),
        "lse_beta": np.stack([logsumexp(b * x, axis=1) for b in BETAS], axis=1).astype(np.float32),
        "top_gap": (m[:, None] - np.take_along_axis(x, order[:, :k], 1)).astype(np.float16),
        "tail_mass": np.take_along_axis(p, order[:, k:], 1).sum(axis=1).astype(np.float32),
    }


def exact(x, gold, beta):
    x = np.asarray(x, np.float64)
    return logsumexp(beta * x, axis=1) - beta * x[np.arange(len(x)), gold]


def best_of(x, gold):
    """(T, mean nll) by direct optimisation over all logits."""
    found = minimize_scalar(
        lambda b: exact(x, gold, b).mean(), bounds=(0.25, 2), method="bounded", options={"xatol": 1e-6}
    )
    return 1 / found.x, found.fun


def drawn(x, rng, temperature=1.0):
    """A gold id of each row from softmax(x / temperature), by the Gumbel trick."""
    return np.argmax(x / temperature + rng.gumbel(size=x.shape), axis=1)


KINDS = {
    "normal": lambda rng: rng.normal(0, 2.5, (ROWS, V)),
    "flat": lambda rng: rng.normal(0, 0.5, (ROWS, V)),
    "heavy": lambda rng: rng.standard_t(4, (ROWS, V)),
    "zipf": lambda rng: rng.normal(0, 1, (ROWS, V)) - 2 * np.log(np.arange(1, V + 1)),
    "far from 0": lambda rng: rng.normal(0, 2.5, (ROWS, V)) + 100,
}


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    rng = np.random.default_rng(list(KINDS).index(request.param))
    x = KINDS[request.param](rng)
    gold = drawn(x, rng, 1.2)
    return x, gold, columns_of(x, gold, 32)


def test_it_is_exact_at_the_nodes(case):
    x, gold, columns = case
    for beta in NODES:
        error = nll_at(beta, columns) - exact(x, gold, beta)
        assert np.abs(error).max() < 3e-5  # float32 lse of 100 to 200
        assert abs(error.mean()) < 2e-6
    assert np.array_equal(nll_at(1.0, columns), columns["nll"].astype(np.float64))


def test_between_the_nodes_the_mean_is_right_to_a_thousandth(case):
    x, gold, columns = case
    for beta in np.linspace(0.5, 2, 13):
        assert nll_at(beta, columns).mean() == pytest.approx(exact(x, gold, beta).mean(), abs=1e-3)


def test_the_fit_is_that_of_the_full_logits(case):
    x, gold, columns = case
    temperature, nll = best_of(x, gold)
    found = fit(lambda _: [columns])
    assert isinstance(found, Fit)
    assert found.temperature == pytest.approx(temperature, rel=2e-3)
    assert found.nll == pytest.approx(nll, abs=1e-3)
    assert found.low <= nll <= found.high
    assert found.low <= found.nll <= found.high
    assert found.coolest <= temperature <= found.hottest
    assert found.nll_before == pytest.approx(exact(x, gold, 1).mean(), abs=1e-6)
    assert (found.tokens, found.left_out, found.at_edge) == (ROWS, 0, False)


@pytest.mark.parametrize("factor", [1.5, 0.7])
def test_scaled_logits_scale_the_temperature_and_leave_the_least_nll(factor):
    rng = np.random.default_rng(5)
    x = rng.normal(0, 2, (ROWS, 800))
    gold = drawn(x, rng)
    one, other = (fit(lambda _, c=c: [columns_of(x * c, gold, 32)]) for c in (1.0, factor))
    assert other.temperature / one.temperature == pytest.approx(factor, rel=2e-3)
    assert other.nll == pytest.approx(one.nll, abs=5e-4)


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_any_width_of_the_list(k):
    """k = V has no tail, and k = 0 is all tail."""
    rng = np.random.default_rng(k)
    x = rng.normal(0, 2, (400, 5))
    gold = drawn(x, rng, 1.3)
    columns = columns_of(x, gold, k)
    for beta in (0.3, 0.6, 0.9, 1.1, 1.8):
        assert nll_at(beta, columns).mean() == pytest.approx(exact(x, gold, beta).mean(), abs=1e-3)
    assert fit(lambda _: [columns]).temperature == pytest.approx(best_of(x, gold)[0], rel=5e-3)


def test_trimmed_lists_count_the_rest_to_the_tail():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 3, (500, 300))
    gold = drawn(x, rng, 1.2)
    columns = columns_of(x, gold, 16)
    shorter = columns_of(x, gold, 4)
    cut = rng.random(500) < 0.5
    columns["top_gap"][cut, 4:] = np.nan
    columns["tail_mass"] = np.where(cut, shorter["tail_mass"], columns["tail_mass"])
    for beta in (0.55, 0.8, 1.2, 1.7):
        assert nll_at(beta, columns).mean() == pytest.approx(exact(x, gold, beta).mean(), abs=1e-3)


def test_masked_vocabulary_and_rows_that_are_not_finite():
    rng = np.random.default_rng(4)
    x = rng.normal(0, 2, (300, 50))
    x[:, 40:] = -np.inf
    x[:100, 4:] = -np.inf  # fewer possible tokens than the list is long
    gold = drawn(x, rng, 1.3)
    columns = columns_of(x, gold, 8)
    for beta in (0.6, 0.9, 1.3):
        assert nll_at(beta, columns).mean() == pytest.approx(exact(x, gold, beta).mean(), abs=1e-3)
    whole = fit(lambda _: [columns])
    bad = {name: np.concatenate([values, values[:3]]) for name, values in columns.items()}
    bad["nll"][-3] = np.inf
    for name in ("nll", "top_nll", "lse", "entropy", "lse_beta", "top_gap", "tail_mass"):
        bad[name][-2:] = np.nan
    assert np.isposinf(nll_at(0.8, bad)[-3])
    assert np.isnan(nll_at(0.8, bad)[-2:]).all()
    found = fit(lambda _: [bad])
    assert (found.tokens, found.left_out) == (300, 3)
    assert found.temperature == whole.temperature
    assert "left out: 3" in str(found)


def test_chunks_are_one_stream_and_the_last_pass_is_handed_on():
    rng = np.random.default_rng(6)
    x = rng.normal(0, 2, (700, 60))
    gold = drawn(x, rng, 1.2)
    columns = columns_of(x, gold, 8)
    asked, handed = [], []

    def read(names):
        asked.append(tuple(names))
        for part in (slice(0, 10), slice(10, 10), slice(10, 700)):
            yield {name: columns[name][part] for name in names}

    found = fit(read, lambda rows, nll: handed.append((rows["nll"], nll)))
    whole = fit(lambda _: [columns])
    assert found.temperature == pytest.approx(whole.temperature, rel=1e-9)
    assert found.low == pytest.approx(whole.low, abs=1e-9)
    assert len(asked) == 3
    assert "top_gap" not in asked[0]
    raw, nll = (np.concatenate(parts) for parts in zip(*handed, strict=True))
    assert np.array_equal(raw, columns["nll"])
    assert nll.mean() == pytest.approx(found.nll, rel=1e-12)
    assert nll == pytest.approx(nll_at(1 / found.temperature, columns), abs=1e-12)


@pytest.mark.parametrize(("factor", "edge", "told"), [(8.0, 4.0, "or more"), (0.1, 0.5, "or less")])
def test_an_optimum_at_the_edge_is_told(factor, edge, told):
    rng = np.random.default_rng(7)
    x = rng.normal(0, 2, (400, 100))
    found = fit(lambda _: [columns_of(x * factor, drawn(x, rng), 16)])
    assert found.at_edge
    assert found.temperature == edge
    assert told in str(found)


def test_a_model_that_is_always_sure_and_right_keeps_its_temperature():
    found = fit(lambda _: [columns_of(np.zeros((5, 1)), np.zeros(5, int), 1)])
    assert (found.temperature, found.nll, found.low, found.high) == pytest.approx((1, 0, 0, 0), abs=2e-4)


@pytest.mark.parametrize("how", ["no column", "short", "some"])
def test_without_lse_beta_there_is_a_reason(how):
    rng = np.random.default_rng(8)
    x = rng.normal(0, 2, (50, 20))
    columns = columns_of(x, drawn(x, rng), 4)
    if how == "no column":
        del columns["lse_beta"]
    elif how == "short":
        columns["lse_beta"] = np.zeros((50, 0))
    else:
        columns["lse_beta"][:7] = np.nan
    found = fit(lambda _: [columns])
    assert isinstance(found, NoFit)
    assert f"no lse_beta for {7 if how == 'some' else 50} of 50 tokens" in str(found)


def test_no_tokens():
    assert fit(lambda _: []) == NoFit("no token with a finite nll")
    none = columns_of(np.zeros((1, 3)), [0], 2)
    assert len(nll_at(0.8, {name: values[:0] for name, values in none.items()})) == 0


@pytest.mark.parametrize("beta", [0.2, 2.1, float("nan")])
def test_beta_outside(beta):
    with pytest.raises(InputError, match=r"0\.25 to 2"):
        nll_at(beta, columns_of(np.zeros((1, 3)), [0], 2))


def test_gaps_of_every_float16_as_by_conversion():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[:, None]
    expected = np.array([[1e4 if np.isnan(gap) else min(gap, 1e4)] for gap in every[:, 0].tolist()])
    assert np.array_equal(gaps_of(every), expected)
    quiet = np.where(np.isnan(every), np.float16(np.nan), every)  # converting a signalling NaN warns
    assert np.array_equal(gaps_of(quiet.astype(np.float64)), expected)
    assert np.array_equal(_float16_values(), expected[:, 0])


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(0, 8), st.floats(0.1, 6), st.floats(0.3, 3))
@settings(max_examples=60, deadline=None)
def test_the_bracket_holds_the_least_nll(seed, width, k, scale, temperature):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, scale, (40, width))
    gold = drawn(x, rng, temperature)
    found = fit(lambda _: [columns_of(x, gold, k)])
    least = min(best_of(x, gold)[1], exact(x, gold, 0.25).mean(), exact(x, gold, 2).mean())
    assert found.low - 1e-6 <= least <= found.high + 1e-6  # lse is float32
    assert found.high <= found.nll_before
    assert holds(found, x, gold)


def holds(found, x, gold):
    """The range has a temperature at which mean nll is the least."""
    best, least = best_of(x, gold)
    ends = {T: exact(x, gold, 1 / T).mean() for T in (0.5, 4.0)}
    least = min(least, *ends.values())
    inside = min(max(best, found.coolest), found.hottest)
    return exact(x, gold, 1 / inside).mean() <= least + 2e-6  # flat: many temperatures are as good


def without(columns):
    return {name: values for name, values in columns.items() if name != "lse_beta"}


def test_bounds_without_lse_beta_hold_at_every_temperature(case):
    """Of every token, at every T; tight near 1, where all but the spread of the tail is known."""
    x, gold, columns = case
    betas = [*np.linspace(0.25, 2, 36)[::3].tolist(), 0.95, 1.0, 1.1]
    widths = {}
    for beta, (_, floor, low, high) in zip(betas, bands(betas, without(columns)), strict=True):
        truth = exact(x, gold, beta)
        assert (low - UNROUNDED <= truth).all()
        assert (truth <= high + UNROUNDED).all()
        assert (low <= floor).all()
        widths[round(beta, 2)] = (high - low).mean()
    assert widths[1.0] < 1e-6
    assert widths[0.95] < 3e-3
    assert widths[1.1] < 6e-3
    assert widths[0.25] < 1.2


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.0, 1.1, 1.6])
def test_the_range_without_lse_beta(case, factor):
    x, gold, _ = case
    x = x * factor
    columns = columns_of(x, gold, 32)
    (found,) = fits(lambda _: [without(columns)], 1)
    assert isinstance(found, Range)
    temperature, nll = best_of(x, gold)
    assert found.coolest <= temperature <= found.hottest
    assert found.low <= nll <= found.high
    assert found.nll_before == pytest.approx(exact(x, gold, 1).mean(), abs=1e-6)
    assert (found.tokens, found.left_out, found.missing) == (ROWS, 0, ROWS)
    assert (found.coolest >= 0.999) == (temperature > 1)  # the slope at 1 is known
    if abs(temperature - 1) < 0.1 and x.std() > 1:
        assert found.hottest - found.coolest < 0.2


@given(
    st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(0, 9), st.floats(0.05, 9), st.floats(0.3, 3),
    st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_bounds_hold_for_any_logits(seed, width, k, scale, temperature, share):
    """Also with masked entries, ties, empty tails, and `lse_beta` for some rows."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(0, scale, (40, width)) * 4) / 4
    gold = drawn(x, rng, temperature)
    x[rng.random(x.shape) < 0.2] = -np.inf
    x[np.arange(40), gold] = np.where(np.isfinite(x).any(axis=1), x[np.arange(40), gold], 0.0)
    x[np.arange(40), gold] = np.where(np.isfinite(x[np.arange(40), gold]), x[np.arange(40), gold], scale)
    columns = columns_of(x, gold, k)
    with np.errstate(all="ignore"):
        truth = {beta: exact(x, gold, beta) for beta in (0.25, 0.3, 0.6, 0.85, 1.0, 1.2, 1.5, 1.9)}
    for beta, (_, _, low, high) in zip(truth, bands(list(truth), without(columns)), strict=True):
        assert (low - 3e-5 <= truth[beta]).all()
        assert (truth[beta] <= high + 3e-5).all()
    columns["lse_beta"][rng.random(40) < share] = np.nan
    (found,) = fits(lambda _: [columns], 1)
    places = np.linspace(0.25, 2, 176)
    least = min(exact(x, gold, beta).mean() for beta in places)
    assert found.low - 1e-6 <= least
    inside = places[(1 / places >= found.coolest) & (1 / places <= found.hottest)]
    near = [1 / found.coolest, 1 / found.hottest, *inside.tolist()]
    best = min(exact(x, gold, beta).mean() for beta in near)
    assert best <= least + 2e-6
    assert best <= found.high + 2e-6


def test_populations_share_the_reads():
    """Each is fitted as if it were alone: exact ones, one without lse_beta, one with some, one without tokens."""
    rng = np.random.default_rng(11)
    x = rng.normal(0, 2, (900, 120))
    x[:300] *= 1.7
    x[300:500] *= 0.7
    gold = drawn(x / np.repeat([1.7, 0.7, 1], [300, 200, 400])[:, None], rng)
    columns = columns_of(x, gold, 16)
    columns["lse_beta"][700:] = np.nan
    columns["nll"][5] = np.inf
    member = np.zeros((900, 6), dtype=bool)
    member[:, 0] = True
    for i, part in enumerate((slice(0, 300), slice(200, 600), slice(500, 720), slice(700, 900)), start=1):
        member[part, i] = True
    columns[MEMBER] = member
    asked = []

    def read(names):
        asked.append(tuple(names))
        for part in (slice(0, 100), slice(100, 650), slice(650, 900)):
            yield {name: columns[name][part] for name in (*names, MEMBER)}

    found = fits(read, 6)
    assert len(asked) == 3
    assert "top_gap" not in asked[0]
    assert [type(one) for one in found] == [Range, Fit, Fit, Range, Range, NoFit]
    assert [one.missing for one in found if isinstance(one, Range)] == [200, 20, 200]
    for i, one in enumerate(found[:5]):
        rows = np.flatnonzero(member[:, i])
        (alone,) = fits(lambda _, rows=rows: [{n: v[rows] for n, v in columns.items() if n != MEMBER}], 1)
        # Sums in another order show where a curve is flat.
        assert vars(one) == pytest.approx(vars(alone), rel=1e-6)
        rows = rows[rows != 5]
        assert one.left_out == (i < 2)
        temperature, nll = best_of(x[rows], gold[rows])
        assert one.coolest <= temperature <= one.hottest
        assert one.low <= nll <= one.high
        if isinstance(one, Fit):
            assert one.temperature == pytest.approx(temperature, rel=5e-3)
            again = fit(lambda _, rows=rows: [{n: v[rows] for n, v in columns.items() if n != MEMBER}])
            assert one.temperature == pytest.approx(again.temperature, rel=1e-9)


@given(st.floats(1e-9, 8), st.floats(0, 12))
def test_two_gaps_have_the_moments(excess, more):
    reach_ = np.log1p(np.expm1(excess) + more)
    part, distance = (float(v[0]) for v in two_gaps(np.array([excess]), np.array([reach_])))
    assert part * distance == pytest.approx(excess, rel=1e-9)
    assert mixture(part, distance, 0.0) >= np.exp(reach_) * (1 - 1e-9)
    assert mixture(part, distance, 0.0) == pytest.approx(np.exp(reach_), rel=1e-3)
    assert mixture(part, distance, 1.0) == pytest.approx(1, abs=1e-12)


def test_no_other_gaps_weigh_more():
    """Against a linear programme over gaps on a grid."""
    grid = np.linspace(1, 12, 600)
    u = np.exp(-grid)
    hidden = np.zeros_like(grid)
    hidden[[10, 80, 200, 410]] = 3, 10, 40, 200
    known = np.stack([np.ones_like(grid), u, grid * u])
    values = known @ hidden
    mean, most = values[2] / values[1], np.log(values[0] / values[1])
    part, distance = two_gaps(np.array([mean - 1]), np.array([most - 1]))
    for beta in (0.3, 0.7, 1.2, 1.8):
        target = np.exp(-beta * grid)
        best = linprog(-target / target.max(), A_eq=known, b_eq=values, bounds=(0, None), method="highs")
        highest = -best.fun * target.max()
        bound = values[1] * np.exp(1 - beta) * mixture(part, distance, beta)[0]
        assert highest <= bound * (1 + 1e-9)
        assert highest == pytest.approx(bound, rel=2e-3)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-2, 2)), min_size=1, max_size=6), st.floats(0, 3))
@settings(max_examples=100, deadline=None)
def test_lowest_is_below_any_convex_function(lines, curvature):
    def f(x):
        return max(a * x + b for a, b in lines) + curvature * (x - 0.5) ** 2

    exact_at = [(x, f(x)) for x in (0.0, 1.0, 2.0, 3.0)]
    a = max(lines, key=lambda line: line[0] * 1.0 + line[1])[0]
    known = Known(exact_at, (1.0, f(1.0), a + curvature), [(1.3, f(1.3) + 0.1)])
    below = [(x, f(x) - 0.05) for x in (1.0, 1.2, 1.6, 2.0)]
    least = min(f(x) for x in np.linspace(1, 2, 2001))
    assert lowest(known, below, 1.0, 2.0) <= least + 1e-9


def test_where_a_convex_function_can_be_below_a_level():
    def f(x):
        return (x - 1.3) ** 2

    known = Known(
        [(x, f(x)) for x in (0.0, 1.0, 2.0, 3.0)], (1.0, f(1.0), -0.6), [(1.2, f(1.2)), (1.4, f(1.4))]
    )
    below = [(x, f(x)) for x in (1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 2.0)]
    low, high = reach(pieces(known, below, 1.0, 2.0), 0.0)
    assert 1.15 < low <= 1.3 <= high < 1.45
    wider = reach(pieces(known, below, 1.0, 2.0), 0.01)
    assert wider[0] <= 1.2
    assert wider[1] >= 1.4
    assert reach(pieces(known, below, 1.0, 2.0), -1.0) is None


@pytest.mark.parametrize("offset", [0, 20, -30, 100, -1000, 10_000])
@pytest.mark.parametrize(("rows", "v", "k"), [(1, 1, 1), (3, 2, 2), (3, 50, 8), (2, 50, 0), (30, 400, 32)])
def test_bounds_hold_however_far_logits_are_from_zero(offset, rows, v, k):
    """lse and lse_beta are float32, and are subtracted from each other."""
    betas = np.linspace(0.25, 2, 400)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = (rng.normal(0, rng.choice([0.5, 1.5, 4]), (rows, v)) + offset).astype(np.float32)
        gold = drawn(x.astype(np.float64), rng, rng.choice([0.5, 1.2, 3]))
        columns = columns_of(x, gold, k)
        found = fit(lambda _, c=columns: [c])
        near = x.astype(np.float64) - x.max(axis=1, keepdims=True)
        nll = np.array([exact(near, gold, beta).mean() for beta in betas])
        assert found.low <= found.nll <= found.high
        assert found.low <= nll.min() <= found.high + 2e-6
        as_good = betas[nll <= nll.min() + 1e-9]
        assert found.coolest <= 1 / as_good.min() + 1e-2
        assert found.hottest >= 1 / as_good.max() - 1e-2
        assert found.low >= 0
        # float32 is off by half a unit of lse, and by one of lse_beta, at each of the recorded β; this is at 2.
        largest = np.float32(2 * (abs(offset) + 20))
        assert found.off <= 2 * float(np.spacing(largest))
