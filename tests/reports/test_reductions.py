"""Token means against step means: values by brute force, which keys are listed, and what the page says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import logitbox as lb
from logitbox.analysis.tallying import tally_dump
from logitbox.dumps.definitions.registry import metrics_of
from logitbox.dumps.recorder import Recorder
from logitbox.reports.sections import reductions
from logitbox.reports.streams import gather

V, COORD, DESC = 24, 12, 6
NASTY = "<script>alert(1)</script>"
SIZES = (1, 7, 2, 12, 3)
"""Rows of each step: very different numbers of tokens."""


@dataclass(frozen=True)
class Step:
    """What one logging step saw, in float64."""

    logits: np.ndarray
    gold: np.ndarray

    @property
    def log_p(self) -> np.ndarray:
        shifted = self.logits - self.logits.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    @property
    def nll(self) -> np.ndarray:
        return -self.log_p[np.arange(len(self.gold)), self.gold]

    @property
    def correct(self) -> np.ndarray:
        return self.logits.argmax(1) == self.gold

    @property
    def mass(self) -> np.ndarray:
        return np.exp(self.log_p)[:, COORD:].sum(1)


def material_of(path):
    dump = lb.open(path)
    return gather(dump, tally_dump(dump))


def build(path):
    return {item.label: item for item in reductions.build(material_of(path))}


def pooled(steps: list[Step]) -> Step:
    return Step(np.concatenate([s.logits for s in steps]), np.concatenate([s.gold for s in steps]))


def by_hand(steps: list[Step]) -> dict[str, tuple[float, float]]:
    """(token mean, step mean) of keys without prefix."""

    def everyone(step: Step) -> np.ndarray:
        return np.ones(len(step.gold), dtype=bool)

    kinds = {
        "token_acc": lambda s: s.correct.mean(),
        "nll": lambda s: s.nll.mean(),
        "exp_nll": lambda s: np.exp(s.nll.mean()),
        "confidence": lambda s: np.exp(s.log_p.max(1)).mean(),
    }
    values = {key: (everyone, value) for key, value in kinds.items()}
    values["desc_token_acc"] = (lambda s: s.gold < DESC, kinds["token_acc"])
    values["desc_exp_nll"] = (lambda s: s.gold < DESC, kinds["exp_nll"])
    values["desc_token_frac"] = (everyone, lambda s: (s.gold < DESC).mean())
    values["coord_monitor/coord_vocab_mass_at_gt_text"] = (lambda s: s.gold < COORD, lambda s: s.mass.mean())
    values["coord_monitor/coord_vocab_mass_at_gt_coord"] = (
        lambda s: s.gold >= COORD,
        lambda s: s.mass.mean(),
    )
    found: dict[str, tuple[float, float]] = {}
    for key, (mask, value) in values.items():
        parts = [Step(s.logits[mask(s)], s.gold[mask(s)]) for s in steps]
        here = [part for part in parts if len(part.gold)]
        found[key] = float(value(pooled(here))), float(np.mean([value(part) for part in here]))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(path, steps by stream). Train: steps of many sizes, one without desc. Eval: two passes at one step."""
    rng = np.random.default_rng(11)
    path = tmp_path_factory.mktemp("reductions") / "run"
    steps: dict[str, list[Step]] = {}

    def draw(rows: int, step: int, lowest: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.from_numpy(rng.integers(lowest, V, (rows, 9)))
        logits = torch.from_numpy(rng.normal(size=(rows, 9, V)).astype(np.float32))
        logits[:, :-1].scatter_add_(2, labels[:, 1:, None], torch.full((rows, 8, 1), 0.8 * step))
        return logits, labels

    def record(rec, label, rows, step, lowest=0, **where):
        logits, labels = draw(rows, step, lowest)
        rec.record(logits, labels, step=step, types={"desc": labels < DESC}, **where)
        kept = Step(logits[:, :-1].reshape(-1, V).double().numpy(), labels[:, 1:].reshape(-1).numpy())
        steps.setdefault(label, []).append(kept)

    with Recorder(path, V, groups={"coord": range(COORD, V)}, types=["desc"]) as rec:
        for step, rows in enumerate(SIZES):
            record(rec, "train", rows, step, lowest=DESC if step == 3 else 0)
        for rows in (2, 9):
            rec.start_pass("eval", NASTY)
            record(rec, f"eval · {NASTY}", rows, 4, phase="eval", dataset=NASTY)
        record(rec, "once", 3, 4, phase="once")
    return path, steps


@pytest.fixture(scope="module")
def shown(made):
    return build(made[0])


def number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-").removesuffix(" %"))


@pytest.mark.parametrize(("label", "prefix", "count"), [("train", "", 5), (f"eval · {NASTY}", "eval_", 2)])
def test_values_are_those_of_brute_force(label, prefix, count, made, monkeypatch):
    monkeypatch.setattr(reductions, "_MAX_ROWS", 1000)
    item = build(made[0])[label]
    assert item.steps == count
    rows = {row.key: row for row in item.rows}
    listed = 0
    for key, (token, step) in by_hand(made[1][label]).items():
        relative = abs(step - token) / abs(token)
        assert abs(relative - 1e-3) > 1e-4, "too close to the limit to tell"
        assert (prefix + key in rows) == (relative > 1e-3), key
        if relative > 1e-3:
            row = rows[prefix + key]
            assert number(row.token_mean) == pytest.approx(token, abs=6e-5)
            assert number(row.step_mean) == pytest.approx(step, abs=6e-5)
            assert number(row.difference) == pytest.approx(step - token, abs=6e-5)
            assert number(row.relative) == pytest.approx(100 * relative, abs=0.06)
            listed += 1
    assert listed > 4


def test_every_metric_but_counts_is_compared(made, shown):
    (session,) = lb.open(made[0]).sessions
    compared = [metric for metric in metrics_of(session.spec) if metric.reduction != "count"]
    for item in shown.values():
        assert item.n_differing + item.n_agreeing + item.n_empty == len(compared)
        assert not {row.key for row in item.rows} & {"n_tokens", "eval_n_tokens", "n_nonfinite"}


def test_the_largest_differences_come_first_and_twelve_are_shown(shown):
    item = shown["train"]
    assert len(item.rows) == 12 < item.n_differing
    relative = [number(row.relative) for row in item.rows]
    assert relative == sorted(relative, reverse=True)


def test_a_phase_of_one_step_is_not_compared(shown):
    assert set(shown) == {"train", f"eval · {NASTY}"}


def test_the_page(made, tmp_path, parse):
    text = lb.report(lb.open(made[0]), tmp_path / "r.html").read_text(encoding="utf-8")
    assert NASTY not in text
    page = parse(text)
    section = " ".join(page.sections["reductions"].split())
    token, step = by_hand(made[1]["train"])["exp_nll"]
    assert f"train, {len(SIZES)} logging steps" in section
    assert f"eval · {NASTY}, 2 logging steps" in section
    assert f"exp_nll {token:.4f} {step:.4f}" in section
    assert "The 12 of " in section
    assert "steps have different numbers of tokens" in section
    assert ("a", "href", "#reductions") in page.attributes


def test_equal_steps_agree(tmp_path, parse):
    """The same batch at every step: no mean can differ, not even that of exponentials."""
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, V), torch.randint(0, V, (4, 6))
    with Recorder(tmp_path / "same", V) as rec:
        for step in range(3):
            rec.record(logits, labels, step=step)
    (item,) = build(tmp_path / "same").values()
    assert (item.rows, item.n_differing, item.n_empty) == ((), 0, 0)
    page = parse(lb.report(lb.open(tmp_path / "same"), tmp_path / "r.html").read_text(encoding="utf-8"))
    assert f"All {item.n_agreeing} keys agree within 0.1" in " ".join(page.sections["reductions"].split())


def test_infinite_means_are_told(tmp_path):
    """Perplexity of one step overflows: its step mean is infinite while the token mean is not."""
    logits = torch.zeros(40, 3)
    logits[0, 0] = 2000.0
    with Recorder(tmp_path / "d", 3) as rec:
        rec.record(logits[:1], torch.tensor([1]), step=0)
        rec.record(logits[1:], torch.ones(39, dtype=torch.long), step=1)
    (item,) = build(tmp_path / "d").values()
    first = item.rows[0]
    mean = np.exp((2000 + 39 * np.log(3)) / 40)
    assert (first.key, first.step_mean, first.difference, first.relative) == ("exp_nll", "∞", "+∞", "∞")
    assert number(first.token_mean) == pytest.approx(mean, rel=1e-6)


def test_one_step_only_is_said(odd_dump, tmp_path, parse):
    page = parse(lb.report(odd_dump("single_step"), tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "recorded at one logging step only" in " ".join(page.sections["reductions"].split())


def test_a_dump_of_non_finite_tokens_only(odd_dump, tmp_path, parse):
    page = parse(lb.report(odd_dump("nonfinite"), tmp_path / "r.html").read_text(encoding="utf-8"))
    section = " ".join(page.sections["reductions"].split())
    assert "eval, 2 logging steps No finite supervised tokens" in section
    metrics = " ".join(page.sections["metrics"].split())
    assert "no supervised tokens with finite values" in metrics


def test_families_are_told_apart_in_a_sentence(reported, parse):
    page = parse(reported.read_text(encoding="utf-8"))
    metrics = " ".join(page.sections["metrics"].split())
    assert "Keys begin with the phase: val_entropy, train_entropy." in metrics
    assert "Without special tokens (bos, eos, padding)" in metrics
    assert "the composite loss is the sum of the two means" in metrics
    assert "Both ways: gold inside the group" in " ".join(page.sections["flips"].split())
