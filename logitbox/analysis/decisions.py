"""`decisions`: what the model decided at every slot where one of the answers was due (seed 003).

At a slot P(a) is the softmax mass, at T = 1, of all token ids of the answer a. The prediction is the likeliest answer
(the first declared among equals), the confidence its probability; the rest of the mass, 1 − Σ P(a), is on no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.bins import binned, count_table, ece_of, reliability_table
from logitbox.analysis.results import Result
from logitbox.analysis.slots import (
    Step,
    answers_of,
    at_places,
    check_step,
    chosen,
    chosen_phase,
    names_of_samples,
    places_of,
    supervised,
    told_step,
)
from logitbox.analysis.tallying import Progress
from logitbox.dumps.dump import Dump

_MEANS = {
    "decision_prob_mass": "prob_mass",
    "decision_confidence": "confidence",
    "decision_accuracy": "correct",
    "decision_elsewhere": "elsewhere",
}
"""Keys of `metrics`, without prefix, and the columns they are means of."""


@dataclass(frozen=True, eq=False)
class Decisions(Result):
    """Decisions of one phase, in recording order.

    Attributes:
        frame: one row per slot: where it is (`phase dataset pass step sample key source pos`); `gt`, the answer that
            gold is one of (null: of none); `pred`, the likeliest answer (null: none has any mass); `correct`;
            `p_<answer>` (null where the row's session had no such answer), `prob_mass` of all answers, `confidence`;
            the vocabulary's arg-max `top_id`, `top_text`, and whether it is `elsewhere`, in no answer.
        phase, step: what was asked for; the phase is never None.
        answers: names, in the order declared.
        left_out: `nonfinite` and `duplicate` slots, and samples evaluated `without_slot`.
        every: slots of all steps of the phase and data sets, for `evolution`.
    """

    phase: str
    step: Step
    answers: tuple[str, ...]
    left_out: Mapping[str, int]
    every: pl.LazyFrame = field(repr=False)

    @property
    def accuracy(self) -> float | None:
        """Share of slots where the likeliest answer is gold's; None without any."""
        return _mean(self.frame["correct"])

    @property
    def confidence(self) -> float | None:
        """Mean probability of the likeliest answer."""
        return _mean(self.frame["confidence"])

    @property
    def prob_mass(self) -> float | None:
        """Mean probability of all answers together."""
        return _mean(self.frame["prob_mass"])

    @property
    def elsewhere(self) -> float | None:
        """Share of slots where the vocabulary's arg-max is no answer."""
        return _mean(self.frame["elsewhere"])

    @cached_property
    def evolution(self) -> pl.DataFrame:
        """Means per `step`, all steps of the phase: `n`, `avg_p_<answer>`, `decision_*`, as `metrics(by="step")`.

        Sessions with other answers that recorded the same step are pooled here, and null there.
        """
        averages = (pl.col(f"p_{name}").mean().alias(f"avg_p_{name}") for name in self.answers)
        means = (pl.col(column).mean().alias(key) for key, column in _MEANS.items())
        steps = self.every.group_by("step").agg(pl.len().cast(pl.Int64).alias("n"), *averages, *means)
        return steps.sort("step").collect(engine="streaming")

    def reliability(self, bins: int = 15) -> pl.DataFrame:
        """Accuracy against confidence in equal-width bins (see `bins.reliability_table`), of those with decisions."""
        return reliability_table(*self._arrays(), bins)

    def ece(self, bins: int = 15) -> float | None:
        """Expected calibration error of these bins: Σ n/N · |accuracy − confidence|; None without decisions."""
        return ece_of(self.reliability(bins))

    def classwise_ece(self, bins: int = 15) -> float | None:
        """Mean over answers a of Σ_b n/N · |share of gold in a − mean P(a)|, in equal-width bins of P(a).

        P(a) is renormalised among the answers; N are the slots whose session had the answer a, less those where no answer
        has any mass. Answers that are never gold count, and gold of no answer counts against all. None without decisions.
        """
        errors: list[float] = []
        for name in self.answers:
            mass = pl.col(f"p_{name}")
            known = self.frame.filter(mass.is_not_null() & (pl.col("prob_mass") > 0))
            share = known.select(mass / pl.col("prob_mass")).to_series().to_numpy()
            is_gold = known.select(pl.col("gt").eq_missing(pl.lit(name))).to_series().to_numpy()
            place = binned(share, bins)[1]
            if len(share):
                gap = np.bincount(place, is_gold - share, minlength=bins)
                errors.append(float(abs(gap).sum()) / len(share))
        return sum(errors) / len(errors) if errors else None

    def histogram(self, bins: int = 20) -> pl.DataFrame:
        """How many decisions are how confident: per equal-width bin `low`, `high`, `n`, `right`, `wrong`."""
        return count_table(*self._arrays(), bins)

    def records(self) -> Iterator[dict[str, Any]]:
        """One dict a decision in seed 003's form: `sample_id`, `p_<answer>`, `gt`, `pred`, `correct`.

        `sample_id` is the id that was passed as `sample=`, else the sample's key. `dataset` and `pass` follow where
        there are several of them, `step` where all steps were asked for.
        """
        extra = [name for name in ("dataset", "pass") if self.frame[name].n_unique() > 1]
        extra += ["step"] if self.step == "all" else []
        shown = ["sample", "key", *(f"p_{name}" for name in self.answers), "gt", "pred", "correct", *extra]
        for sample, key, *values in self.frame.select(shown).iter_rows():
            name = sample if key is None or key == str(sample) else key
            yield {"sample_id": name, **dict(zip(shown[2:], values, strict=True))}

    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return self.frame["confidence"].to_numpy(), self.frame["correct"].to_numpy()


def decisions(
    dump: Dump,
    *,
    phase: str | None = None,
    step: Step = "last",
    dataset: str | None = None,
    progress: Progress | None = None,
) -> Decisions:
    """One row per decision slot: the probability of every answer, the prediction, and whether it is right.

    Args:
        dump: an opened dump, recorded with `answers=`.
        phase: by default the evaluation that was recorded last, else train.
        step: "last" (each data set's last pass), "all", or a step with all its passes.
        dataset: only this one.
        progress: told after every shard that was checked.

    Raises:
        InputError: a dump without answers or token rows; no such phase, step or data set.
        DamagedDumpError: a shard was altered.
    """
    step = check_step(step)
    rows = supervised(dump, progress)
    places = places_of(rows)
    phase = chosen_phase(places, phase)
    here = chosen(places, phase, dataset, step)
    picked = at_places(rows, here)
    good = pl.col("is_slot") & ~pl.col("is_nonfinite") & ~pl.col("is_duplicate")
    slots = picked.filter(good).sort("at").collect(engine="streaming")
    every = at_places(rows, chosen(places, phase, dataset, "all")).filter(good)
    left_out = _left_out(picked)
    frame = _with_names(slots, dump)
    verdict = f"{phase}, {told_step(step, here)}: {_told(frame)}{_rest(frame, left_out, here, dump)}"
    return Decisions(frame, verdict, phase, step, answers_of(dump), left_out, every)


def _with_names(slots: pl.DataFrame, dump: Dump) -> pl.DataFrame:
    named = slots.join(
        names_of_samples(dump, slots), on=["sample", "dataset"], how="left", maintain_order="left"
    )
    ids = named["top_id"].drop_nulls().unique()
    text = pl.col("top_id").replace_strict(
        {i: dump.text.piece(i) for i in ids}, default=None, return_dtype=pl.String
    )
    return named.select(
        *("phase", "dataset", "pass", "step", "sample", "key", "source", "pos", "gt", "pred", "correct"),
        *(f"p_{name}" for name in answers_of(dump)),
        *("prob_mass", "confidence", "top_id"),
        text.alias("top_text"),
        "elsewhere",
    )


def _left_out(picked: pl.LazyFrame) -> dict[str, int]:
    """What is in no row: slots that are not finite or repeated, and samples that never came to a slot."""
    slot, repeated = pl.col("is_slot"), pl.col("is_duplicate")
    rows = picked.select(
        (slot & repeated).sum().alias("duplicate"),
        (slot & ~repeated & pl.col("is_nonfinite")).sum().alias("nonfinite"),
    )
    samples = picked.filter(~repeated).group_by("phase", "dataset", "pass", "step", "sample")
    none = samples.agg(pl.col("is_slot").any()).select((~pl.col("is_slot")).sum().alias("without_slot"))
    both = pl.collect_all([rows, none], engine="streaming")
    counts = {name: int(frame[name].sum()) for frame in both for name in frame.columns}
    return {name: counts[name] for name in ("nonfinite", "duplicate", "without_slot")}


def _told(frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return "no decisions"
    accuracy, mass, sure, elsewhere = (
        _mean(frame[name]) or 0.0 for name in ("correct", "prob_mass", "confidence", "elsewhere")
    )
    gap = sure - accuracy
    lean = "over-confident" if gap > 0 else "under-confident"
    share = f"{elsewhere:.1%}".replace("%", " %")
    count = f"{frame.height:,} decision{'s' if frame.height > 1 else ''}"
    return (
        f"{count}, accuracy {accuracy:.4f}, probability on answers {mass:.4f} ({share} of arg-maxes are no answer), "
        f"confidence {sure:.4f} ({lean} by {abs(gap):.4f})"
    )


def _rest(frame: pl.DataFrame, left_out: Mapping[str, int], places: pl.DataFrame, dump: Dump) -> str:
    """What the numbers leave out or count twice."""
    told = [f"gold of {n:,} is no answer: counted as wrong"] if (n := frame["gt"].null_count()) else []
    if left_out["nonfinite"]:
        told.append(f"{left_out['nonfinite']:,} non-finite left out")
    if left_out["duplicate"]:
        told.append(f"{left_out['duplicate']:,} repeated by a sampler left out")
    if n := left_out["without_slot"]:
        told.append(f"{n:,} {'sample' if n == 1 else 'samples'} evaluated without a decision slot")
    if n := len({s.session for s in dump.sessions if not s.spec.answers}):
        told.append(f"{n:,} {'session' if n == 1 else 'sessions'} without answers not looked at")
    if n := len(dump.skipped):
        told.append(f"{n:,} damaged {'shard' if n == 1 else 'shards'} left out")
    each = places.group_by("dataset", "step").agg(pl.col("session").n_unique())
    if n := each.filter(pl.col("session") > 1).height:
        steps = "step was" if n == 1 else "steps were"
        told.append(f"{n:,} {steps} recorded by more than one session, all of them counted")
    return "".join(f"; {one}" for one in told)


def _mean(values: pl.Series) -> float | None:
    """Mean of numbers or truth values; None without any."""
    mean = values.cast(pl.Float64).mean()
    return float(mean) if isinstance(mean, float) else None
