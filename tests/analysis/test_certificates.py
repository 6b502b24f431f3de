"""Certificates hold of what was recorded from real arithmetic, and each of them trips on a corrupted column."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from analysis_oracle import COORD

from logitbox.analysis.bounds import BOUNDS
from logitbox.analysis.certificates import certify
from logitbox.analysis.checks import CHECKS, checks_of
from logitbox.analysis.pairs.choice import Choice, choose
from logitbox.analysis.routes import NO_ROUTES
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder

GROUP = ("coord gold", "coord in", "coord out")


class Edited(Choice):
    """A choice whose columns are changed as they are read."""

    def scan(self, columns):
        for found in super().scan(columns):
            yield self.__dict__["edit"]({name: values.copy() for name, values in found.items()})


def edited(choice, edit):
    """Certificates of tokens after `edit(columns)`."""
    changed = Edited(choice.dump, choice.phase, choice.places, choice.told)
    changed.__dict__["edit"] = edit
    return certify(changed)


@pytest.fixture(scope="module")
def choice(dump):
    return choose(dump, "eval", "all")


def broken(result):
    return set(result.broken["name"])


@pytest.mark.parametrize("phase", ["train", "eval", "val"])
def test_hold_of_what_was_recorded(dump, tokens, phase):
    result = certify(choose(dump, phase, "all"))
    mine = [t for t in tokens if t["phase"] == phase]
    good = [t for t in mine if t["finite"]]
    assert result.holds, result.broken
    assert (result.n_tokens, result.n_nonfinite) == (len(good), len(mine) - len(good))
    assert result.frame["name"].to_list() == [c.name for c in CHECKS] + [*GROUP] + [b.name for b in BOUNDS]
    n = dict(result.frame.select("name", "n").rows())
    assert all(count == len(good) for name, count in n.items() if name in {"counts", "sum", "CE by rank"})
    assert n["wrong"] == sum(not t["correct"] for t in good)
    assert n["coord gold"] == sum(t["gold"] in COORD for t in good)
    assert n["coord out"] == sum(t["top"] not in COORD for t in good)
    assert n["tail"] == sum(t["rank_of_gold"] >= 32 for t in good)


def test_means_are_those_of_the_oracle(choice, tokens):
    good = [t for t in tokens if t["phase"] == "eval" and t["finite"]]
    nll, rank = np.mean([t["nll"] for t in good]), np.array([t["rank_of_gold"] for t in good])
    margin = dict(certify(choice).frame.select("name", "margin").rows())
    assert margin["CE by accuracy"] == pytest.approx(nll - np.mean(rank > 0) * log(2), rel=1e-5)
    top5 = np.mean((rank > 0) & (rank < 5)) * log(2) + np.mean(rank >= 5) * log(6)
    assert margin["CE by top 5"] == pytest.approx(nll - top5, rel=1e-5)
    assert margin["CE by rank"] == pytest.approx(nll - np.mean(np.log(rank + 1)), rel=1e-5)
    q, h = np.mean(rank > 0), np.mean([t["entropy"] for t in good])
    assert margin["CE by entropy"] == pytest.approx(nll + q * np.log(1 - np.exp(-h / q)), rel=1e-4)
    p = [float(t["p"][t["gold"]]) for t in good]
    assert margin["MRR"] == pytest.approx(np.mean(1 / (rank + 1)) - np.mean(p), rel=1e-4)
    assert margin["confidence"] == pytest.approx(
        np.mean([t["confidence"] for t in good]) - np.mean(p), rel=1e-4
    )


def test_two_routes(choice, tokens):
    good = [t for t in tokens if t["phase"] == "eval" and t["finite"]]
    routes = certify(choice).routes
    inside = [t for t in good if t["rank_of_gold"] < 32]
    assert (routes.n, routes.n_ids, routes.n_gaps, routes.disagree) == (len(good), len(good), len(inside), 0)
    assert routes.tfa == pytest.approx((np.mean([t["correct"] for t in good]),) * 2)
    first, second = routes.tfce
    assert first == pytest.approx(np.mean([t["nll"] for t in inside]), rel=1e-5)
    assert (
        0 < abs(first - second) <= routes.rounding / routes.n_gaps
    )  # rounded gaps: another number, close by
    assert "agree on every token" in str(routes)
    assert str(NO_ROUTES) == "no second route was recorded (no top_ids)"


def pick(test):
    """Corrupts the first row where `test` holds."""

    def chain(name, value):
        def edit(found):
            at = np.flatnonzero(test(found) & ((found["flags"] & 1024) == 0))
            if len(at):
                found[name][at[0]] = value(found, at[0]) if callable(value) else value
            return found

        return edit

    return chain


def rank(f):
    return f["n_gt"] + f["n_eq_before"]


def h2(f, i):
    p = np.exp(-np.float64(f["top_nll"][i]))
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


RIGHT = pick(lambda f: (rank(f) == 0) & (f["n_eq"] == 0) & (f["top_nll"] > 0.05) & (f["top_nll"] < 0.6))
WRONG = pick(lambda f: (rank(f) > 1) & (rank(f) < 20) & (f["n_gt"] > 1) & (f["top_nll"] > 0.3))
SURE = pick(lambda f: (f["top_nll"] > 0.1) & (f["top_nll"] < 0.6))
OUTSIDE = pick(lambda f: rank(f) >= 32)
ANY = pick(lambda f: f["top_nll"] > 0.3)
TOP_IN = pick(
    lambda f: np.isin(f["top_ids"][:, 0], list(COORD)) & ~np.isin(f["gold"], list(COORD)) & (f["top_nll"] < 1)
)
TOP_OUT = pick(
    lambda f: (
        ~np.isin(f["top_ids"][:, 0], list(COORD)) & ~np.isin(f["gold"], list(COORD)) & (f["top_nll"] < 1)
    )
)
GOLD_IN = pick(
    lambda f: np.isin(f["gold"], list(COORD)) & ~np.isin(f["top_ids"][:, 0], list(COORD)) & (f["nll"] < 6)
)

CORRUPTED = {
    "counts": (ANY("n_eq_before", lambda f, i: f["n_eq"][i] + 1), {"counts", "place", "arg-max", "best"}),
    "counts, too many": (ANY("n_finite", 1), {"counts", "entropy", "entropy high"}),
    "arg-max": (RIGHT("top_ids", lambda f, i: np.roll(f["top_ids"][i], 1)), {"arg-max", "place", "distance", *GROUP}),
    "place": (WRONG("n_gt", lambda f, i: f["n_gt"][i] + 1), {"place"}),
    "place, outside": (OUTSIDE("n_gt", 20), {"place"}),
    "distance": (WRONG("nll", lambda f, i: f["nll"][i] + 0.05), {"distance"}),
    "best": (RIGHT("nll", lambda f, i: f["nll"][i] + 1e-4), {"best", "distance"}),
    "above best": (RIGHT("nll", lambda f, i: f["nll"][i] - 1e-4), {"above best", "best", "distance", "rank"}),
    "wrong": (WRONG("nll", lambda f, i: max(0.69, f["top_nll"][i])), {"wrong", "rank", "distance", "wrong entropy"}),
    "rank": (WRONG("nll", lambda f, i: np.log(f["n_gt"][i] + f["n_eq"][i] + 1) - 1e-3), {"rank", "distance"}),
    "tail": (OUTSIDE("nll", lambda f, i: -np.log(f["tail_mass"][i]) - 0.01), {"tail", "rank"}),
    "sum": (ANY("tail_mass", lambda f, i: f["tail_mass"][i] + 0.02), {"sum"}),
    "entropy, negative": (ANY("entropy", -1e-4), {"entropy", "entropy top", "entropy low", "right", "wrong entropy"}),
    "entropy, too large": (ANY("entropy", lambda f, i: np.log(f["n_finite"][i]) + 1e-4), {"entropy", "entropy high"}),
    "entropy top": (ANY("entropy", lambda f, i: f["top_nll"][i] - 1e-4), {"entropy top", "entropy low", "right", "wrong entropy"}),
    "entropy low": (SURE("entropy", lambda f, i: h2(f, i) - 1e-4), {"entropy low"}),
    "entropy high": (RIGHT("entropy", lambda f, i: np.float32(3.9)), {"entropy high"}),
    "right": (RIGHT("nll", lambda f, i: f["entropy"][i] + 1e-4), {"right", "best", "distance"}),
    "wrong entropy": (WRONG("entropy", lambda f, i: 1e-3), {"wrong entropy", "entropy top", "entropy low"}),
    "mean logit": (ANY("mean_logit", lambda f, i: f["lse"][i]), {"mean logit"}),
    "coord gold": (GOLD_IN("logmass_coord", lambda f, i: -f["nll"][i] - 1e-3), {"coord gold"}),
    "coord in": (TOP_IN("logmass_coord", lambda f, i: -f["top_nll"][i] - 1e-3), {"coord in"}),
    "coord out": (TOP_OUT("logmass_coord", lambda f, i: np.log(-np.expm1(-f["top_nll"][i])) + 1e-3), {"coord out"}),
    "NaN": (WRONG("entropy", np.nan), {c.name for c in CHECKS if "entropy" in c.needs} - {"right"}),
}  # fmt: skip
"""Name of the check (or two of it) to the corruption, and every check that may notice it."""


@pytest.mark.parametrize("name", CORRUPTED)
def test_each_check_trips_on_its_corruption(choice, name):
    edit, allowed = CORRUPTED[name]
    result = edited(choice, edit)
    of_tokens = set(result.broken.filter(scope="token")["name"])
    wanted = allowed if name == "NaN" else {name.partition(",")[0]}
    assert wanted <= of_tokens <= allowed
    assert not result.holds


def test_every_check_has_a_corruption(dump):
    known = {check.name for session in dump.sessions for check in checks_of(session.spec)}
    assert known == {name.partition(",")[0] for name in CORRUPTED} - {"NaN"}


def everywhere(**columns):
    def edit(found):
        return found | {
            name: (v(found) if callable(v) else np.full_like(found[name], v)) for name, v in columns.items()
        }

    return edit


BOUNDS_BROKEN = {
    "CE by accuracy": everywhere(nll=0.1),
    "CE by top 5": everywhere(nll=lambda f: np.full_like(f["nll"], 0.3), n_gt=7),
    "CE by rank": everywhere(nll=1.9, n_gt=7),
    "CE by entropy": everywhere(entropy=1e-3),
    "MRR": everywhere(nll=0.9, n_gt=7),
    "confidence": everywhere(top_nll=lambda f: f["nll"] + 0.1),
}


@pytest.mark.parametrize("name", BOUNDS_BROKEN)
def test_each_bound_trips(choice, name):
    assert name in broken(edited(choice, BOUNDS_BROKEN[name]))
    assert set(BOUNDS_BROKEN) == {bound.name for bound in BOUNDS}


def test_the_first_violation_is_named(choice, dump):
    seen = []

    def edit(found):
        at = np.flatnonzero((found["flags"] & 1024) == 0)[2:]
        if len(seen) == 0 and len(at) > 1:
            seen.extend((found["sample"][i], found["pos"][i]) for i in at[:2])
            found["mean_logit"][at[:2]] = 1e6
        return found

    result = edited(choice, edit)
    row = result.broken.row(0, named=True)
    sample, pos = seen[0]
    assert (row["name"], row["violations"], row["pos"], row["key"]) == ("mean logit", 2, pos, str(sample))
    assert (
        f"lse − mean_logit ≥ ln n_finite fails on 2 of {row['n']} tokens (first: {sample} pos {pos})"
        in str(result)
    )
    assert result.summary in str(result)
    assert ": broken: " in str(result)


def test_routes_notice_a_shifted_arg_max(choice):
    count = [0]

    def edit(found):
        shifted = np.where(found["top_ids"] >= 0, (found["top_ids"] + 1) % 60, -1)
        good = (found["flags"] & 1024) == 0
        count[0] += int(((rank(found) == 0) != (shifted[:, 0] == found["gold"]))[good].sum())
        return found | {"top_ids": shifted}

    result = edited(choice, edit)
    assert result.routes.disagree == count[0] > result.routes.by_rank > 30
    assert result.routes.tfa[1] < result.routes.tfa[0]
    assert "but for" in str(result.routes)
    assert {"arg-max", "place"} <= broken(result)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 30.0])
def test_hold_whatever_the_logits(tmp_path, dtype, scale):
    """Flat, ordinary and extreme rows; ties, masked vocabulary, one finite logit, an offset of 1000."""
    torch.manual_seed(0)
    x = torch.randn(400, 700) * scale
    x[50:100] += 1000.0
    x[100:150, 300:] = -torch.inf
    x[150:200, 1:] = -torch.inf
    x[200:250, 7] += 40
    labels = torch.randint(0, 300, (400,))
    labels[150:200] = 0
    labels[200:225] = 7
    with Recorder(tmp_path / "d", 700, k=8, groups={"low": range(150), "odd": list(range(1, 700, 2))}) as rec:
        rec.record(x.to(dtype), labels, phase="eval")
    result = certify(choose(open_dump(tmp_path / "d")))
    assert result.holds, result.broken
    assert result.n_tokens + result.n_nonfinite == 400
    assert result.n_tokens >= 350


def test_no_tokens_are_no_certificate(choice):
    nothing = Edited(choice.dump, choice.phase, choice.places, "none")
    nothing.__dict__["edit"] = lambda found: found | {"flags": found["flags"] | 1024}
    result = certify(nothing)
    assert str(result) == "none: no finite tokens to check"
    assert result.frame["n"].sum() == 0
    assert result.frame["margin"].is_null().all()


def test_a_column_that_was_not_recorded_is_not_checked(choice):
    def edit(found):
        return {name: values for name, values in found.items() if name not in ("top_ids", "top_gap")}

    result = edited(choice, edit)
    assert result.holds
    untried = result.frame.filter(n=0)["name"].to_list()
    assert untried == ["arg-max", "place", "distance", "tail", "sum", "coord in", "coord out"]
    assert "no second route was recorded" in str(result)
