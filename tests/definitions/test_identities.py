"""What must hold between metrics whatever was recorded: random data, groups, types, temperatures and options."""

from __future__ import annotations

from itertools import pairwise
from math import exp, inf
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import logitbox as lb
from logitbox.dumps.recorder import Recorder

FLOAT32 = 2e-6
"""Probabilities are recorded in float32."""


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """A Recorder's options, and logits and labels to record."""
    v = draw(st.integers(6, 70))
    low = draw(st.integers(0, v - 5))
    high = draw(st.integers(low + 1, v - 4))  # the last three ids are answers
    temperature = draw(st.sampled_from([0.7, 1.0, 2.0]))
    weights = {f"{p}_weight": draw(st.sampled_from([-0.5, 0.0, 1.0, 2.5])) for p in ("soft_ce", "w1", "gate")}
    return {
        "v": v,
        "k": draw(st.integers(1, v)),
        "coord": range(low, high),
        "ordered": {
            "sigma": draw(st.floats(0.3, 4)), "truncate": draw(st.none() | st.integers(0, 9)),
            "temperature": temperature, "gate_temperature": draw(st.sampled_from([None, 1.0, 3.0])),
            "normalize_w1": draw(st.booleans()), **weights,
        },
        "answers": {"accept": (v - 3, v - 1), "reject": (v - 2,)},
        "detailed": draw(st.sampled_from([None, {}, {"entropy_k": 1}])),
        "seed": draw(st.integers(0, 2**31)),
        "scale": draw(st.sampled_from([0.0, 0.1, 1.0, 4.0, 40.0])),
        "dtype": draw(st.sampled_from([torch.float32, torch.bfloat16])),
        "masked": draw(st.booleans()),
        "calls": draw(st.integers(1, 3)),
    }  # fmt: skip


def recorded(run: dict[str, Any], path: Path) -> tuple[dict[str, float | None], dict[str, dict[str, Any]]]:
    """(live metrics, rows of the dump's by key), of one evaluation step."""
    generator = torch.Generator().manual_seed(run["seed"])
    names = ("coord", "desc", "format")
    with Recorder(
        path, run["v"], run["k"], {"coord": run["coord"]}, {"coord": run["ordered"]}, names,
        answers=run["answers"], detailed=run["detailed"],
    ) as rec:  # fmt: skip
        for _ in range(run["calls"]):
            labels = torch.randint(0, run["v"], (3, 7), generator=generator)
            logits = torch.randn(3, 7, run["v"], generator=generator) * run["scale"]
            if run["masked"]:
                masked = torch.rand(logits.shape, generator=generator) < 0.2
                logits = logits.masked_fill(
                    masked.scatter(-1, labels.roll(-1, 1)[..., None], value=False), -inf
                )
            coord = (labels >= run["coord"].start) & (labels < run["coord"].stop)
            desc = ~coord & (torch.rand(labels.shape, generator=generator) < 0.4)
            types = {"coord": coord, "desc": desc, "format": ~coord & ~desc}
            rec.record(logits.to(run["dtype"]), labels, phase="eval", types=types)
        live = rec.metrics()
    return live, {row["key"]: row for row in lb.metrics(lb.open(path)).frame.iter_rows(named=True)}


@given(run=runs())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_identities(tmp_path_factory: pytest.TempPathFactory, run: dict[str, Any]) -> None:
    live, rows = recorded(run, tmp_path_factory.mktemp("d") / "dump")
    assert set(live) == set(rows)
    for key, row in rows.items():
        assert live[key] == (
            None if row["value"] is None else pytest.approx(row["value"], rel=1e-12, abs=1e-14)
        ), key
    value = {key: row["value"] for key, row in rows.items()}
    check_shares(value, {key: row["n"] for key, row in rows.items()})
    check_losses(value, run["ordered"])
    check_best(value, exact=run["detailed"] is not None)
    check_decisions(value)


def check_shares(value: dict[str, Any], n: dict[str, int]) -> None:
    """A partition's fractions, and means over parts that make up a whole."""

    def pooled(*parts: str) -> float | None:
        total = sum(n[part] for part in parts)
        return sum((value[part] or 0) * n[part] for part in parts) / total if total else None

    def same(key: str, *parts: str) -> None:
        expected = pooled(*parts)
        assert (value[key] is None) == (expected is None), key
        assert expected is None or value[key] == pytest.approx(expected, rel=1e-12, abs=1e-12), key

    names = ("coord", "desc", "format")
    assert sum(value[f"eval_{name}_token_frac"] for name in names) == pytest.approx(1, abs=1e-12)
    share = value["eval_coord_token_frac"]
    parts = [(share, value["eval_coord_token_acc"]), (1 - share, value["eval_text_token_acc"])]
    assert value["eval_token_acc"] == pytest.approx(sum(w * (acc or 0) for w, acc in parts), abs=1e-12)
    for end in ("token_acc", "token_acc_top5", "nll", "full_entropy"):
        same(f"eval_{end}", *(f"eval_{name}_{end}" for name in names))
    monitor = "eval_coord_monitor"
    same(f"{monitor}/flip_text_to_coord", *(f"{monitor}/flip_{name}_to_coord" for name in names[1:]))
    same(
        f"{monitor}/coord_vocab_mass_at_gt_text",
        *(f"{monitor}/coord_vocab_mass_at_gt_{n}" for n in names[1:]),
    )
    for end in ("exp_nll", "perplexity"):
        nll = value["eval_nll"]
        expected = exp(nll) if nll < 700 else inf
        got = value["eval_exp_nll"] if end == "exp_nll" else value["val_perplexity"]
        assert got == pytest.approx(min(expected, 1e6 if end == "perplexity" else inf), rel=1e-12)


def check_losses(value: dict[str, Any], ordered: dict[str, Any]) -> None:
    """The weighted total equals its parts; Jensen: e^(−mean gate) ≤ mean e^(−gate), both at the gate temperature."""
    part = {
        name: value[f"eval_coord_softce_w1/{name}"] for name in ("soft_ce", "w1", "gate", "loss", "base_loss")
    }
    total, base = part["loss"], part["base_loss"]
    composite = value["eval_coord_softce_w1/composite_loss"]
    if total is not None:
        weights = {name: ordered[f"{name}_weight"] for name in ("soft_ce", "w1", "gate")}
        terms = [weight * part[name] for name, weight in weights.items() if weight]
        scale = sum(map(abs, terms), 1.0)
        assert total == pytest.approx(sum(terms), rel=1e-12, abs=1e-12 * scale)
        mass = value["eval_coord_softce_w1/coord_vocab_mass"]
        assert exp(-part["gate"]) <= mass + FLOAT32
        at = ordered["gate_temperature"] or ordered["temperature"]
        everywhere = value["eval_coord_softce_w1/n_nonfinite"] == 0
        if at == 1 and everywhere:
            assert mass == pytest.approx(
                value["eval_coord_monitor/coord_vocab_mass_at_gt_coord"], abs=FLOAT32
            )
    known = [one for one in (base, total) if one is not None]
    assert composite == (pytest.approx(sum(known), rel=1e-12, abs=1e-12) if known else None)


def check_best(value: dict[str, Any], *, exact: bool) -> None:
    """More tokens hold more probability, and telling more of them apart gives more entropy."""
    best = [value[f"val_top{count}_prob"] for count in (1, 2, 5, 10)]
    found = [one for one in best if one is not None]
    assert all(one is None for one in best[len(found) :])  # k reaches so far and no farther
    for lower, higher in zip(found, [*found[1:], 1.0], strict=True):
        assert lower <= higher + FLOAT32
    k = 10 if "val_top10_entropy" in value else 1
    entropy = value[f"val_top{k}_entropy"]
    if entropy is not None:
        # Rounded distances move the entropy of the ten best; that of one is made of exact columns.
        slack = 2e-5 if exact else 5e-3
        assert value["val_entropy"] <= entropy + slack
        assert entropy <= value["eval_full_entropy"] / torch.log(torch.tensor(2.0)).item() + slack
        if k == 1:
            assert entropy == pytest.approx(value["val_entropy"], abs=2e-5)


def check_decisions(value: dict[str, Any]) -> None:
    """No answer is likelier than all together."""
    assert value["eval_decision_slots"] >= 0
    mass, confidence = value["eval_decision_prob_mass"], value["eval_decision_confidence"]
    assert (mass is None) == (value["eval_decision_slots"] == 0)
    if mass is not None:
        answers = [value["eval_avg_p_accept"], value["eval_avg_p_reject"]]
        assert mass == pytest.approx(sum(answers), rel=1e-12)
        assert max(answers) <= confidence + 1e-12
        assert confidence <= mass + 1e-12
        assert mass <= 1 + FLOAT32


@given(
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.1, 1.0, 5.0]),
    v=st.integers(3, 40),
    ks=st.lists(st.integers(1, 40), min_size=2, max_size=4, unique=True),
)
@settings(max_examples=25, deadline=None)
def test_entropy_grows_with_the_number_of_tokens_told_apart(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float, v: int, ks: list[int]
) -> None:
    """From binary (k = 1) to full (k = V), in bits; where k reaches the vocabulary it is the full one."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(30, v, generator=generator) * scale
    labels = torch.randint(0, v, (30,), generator=generator)
    found = []
    for k in sorted(ks):
        with Recorder(tmp_path_factory.mktemp("d") / "dump", v, v, detailed={"entropy_k": k}) as rec:
            rec.record(logits, labels)
            found.append(rec.metrics())
    entropies = [one[f"train_top{k}_entropy"] for k, one in zip(sorted(ks), found, strict=True)]
    full = found[0]["full_entropy"] / torch.log(torch.tensor(2.0, dtype=torch.float64)).item()
    chain = [found[0]["train_entropy"], *entropies, full]
    for lower, higher in pairwise(chain):
        assert lower <= higher + 2e-5
    if max(ks) >= v - 1:
        assert entropies[-1] == pytest.approx(full, abs=2e-5)
