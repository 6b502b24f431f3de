"""When accuracy and loss part ways: both metrics and the token classes by step, and changes beyond noise.

The change between two steps is R_b − R_a of two ratios Σx/Σn. Samples are the clusters, and a sample met at both
steps is paired with itself: its influence is u = (x_b − R_b n_b)/N_b − (x_a − R_a n_a)/N_a, absent parts being 0, and
Var = G/(G−1) Σ u² over the G samples of either step. So evaluations of the same samples are compared as pairs, and
training steps on different samples as independent ones. "Beyond noise" is |change| > 1.96 standard errors, of both
metrics, at each step by itself (not corrected for how many steps there are).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.classes import NAMES, WORDS
from logitbox.analysis.intervals import Z95
from logitbox.analysis.metrics import pooled
from logitbox.analysis.pairs.choice import Choice, choose
from logitbox.analysis.populations import ALL
from logitbox.analysis.reading import codes
from logitbox.analysis.tally import Tally
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag

Float = NDArray[np.float64]

_COLUMNS = ("sample", "flags", "nll", "n_gt", "n_eq_before")
_STEP = ("dataset", "step")
CHANGES = {
    "d_tfa": pl.Float64,
    "d_tfce": pl.Float64,
    "se_tfa": pl.Float64,
    "se_tfce": pl.Float64,
    "parted": pl.String,
}


@dataclass(frozen=True)
class StepSums:
    """Per sample of one step, ascending sample ids: tokens, right ones, Σ nll; [samples] each."""

    sample: NDArray[np.int64]
    n: Float
    correct: Float
    nll: Float


@dataclass(frozen=True)
class Change:
    """From one step to a later one, with standard errors (None with fewer than two samples)."""

    tfa: float
    tfce: float
    se_tfa: float | None
    se_tfce: float | None

    @property
    def parted(self) -> str:
        """What both did beyond noise: "both rose" or "both fell", else ""."""
        if self.se_tfa is None or self.se_tfce is None:
            return ""
        if abs(self.tfa) <= Z95 * self.se_tfa or abs(self.tfce) <= Z95 * self.se_tfce:
            return ""
        return "" if (self.tfa > 0) != (self.tfce > 0) else f"both {'rose' if self.tfa > 0 else 'fell'}"


def change(a: StepSums, b: StepSums) -> Change:
    """From step a to step b."""
    samples = np.union1d(a.sample, b.sample)
    found: list[float] = []
    errors: list[float | None] = []
    for name in ("correct", "nll"):
        influence, ratio = np.zeros(len(samples)), [0.0, 0.0]
        for i, (sign, step) in enumerate(((-1.0, a), (1.0, b))):
            x, total = getattr(step, name), step.n.sum()
            ratio[i] = float(x.sum() / total)
            influence[np.searchsorted(samples, step.sample)] += sign * (x - ratio[i] * step.n) / total
        g = len(samples)
        found.append(ratio[1] - ratio[0])
        errors.append(sqrt(g / (g - 1) * float(influence @ influence)) if g > 1 else None)
    return Change(*found, *errors)


def sums_by_step(choice: Choice) -> dict[tuple[str, int], StepSums]:
    """(data set, step) to its sums, over finite tokens; passes of a step are pooled."""
    parts: list[pl.DataFrame] = []
    for found in choice.scan(_COLUMNS):
        rows = choice.places[found["place"].tolist()].select(_STEP).with_columns(
            pl.Series("sample", found["sample"]),
            n=pl.lit(1.0),
            correct=pl.Series((found["n_gt"] + found["n_eq_before"] == 0).astype(np.float64)),
            nll=pl.Series(found["nll"].astype(np.float64)),
        )  # fmt: skip
        parts.append(_added(rows.filter(pl.Series((found["flags"] & int(Flag.NONFINITE)) == 0))))
    if not parts:
        return {}
    whole = _added(pl.concat(parts)).sort(*_STEP, "sample")
    return {
        (str(dataset), int(step)): StepSums(
            *(rows[name].to_numpy() for name in ("sample", "n", "correct", "nll"))
        )
        for (dataset, step), rows in whole.group_by(_STEP, maintain_order=True)
    }


def _added(rows: pl.DataFrame) -> pl.DataFrame:
    """Sums per data set, step and sample, added in row order."""
    code, distinct = codes(rows, (*_STEP, "sample"))
    sums = {
        name: np.bincount(code, weights=rows[name].to_numpy(), minlength=len(distinct))
        for name in ("n", "correct", "nll")
    }
    return distinct.hstack(pl.DataFrame(sums, schema=dict.fromkeys(sums, pl.Float64)))


def steps_of(dump: Dump, tally: Tally) -> pl.DataFrame:
    """One row per phase, data set and step.

    Columns: `n`, `tfa`, `tfce`, `share_<class>`; the change since the step before: `d_tfa`, `d_tfce`, their standard
    errors `se_…`, `parted` ("both rose", "both fell", "" or null), and `moved`, the class whose part of TFCE changed
    most, by `moved_part` nats; `best`, the earlier step of lowest TFCE, and the same five columns since then with
    `_best` at their end.
    """
    whole = pooled(tally.cells.filter(pl.col("type") == ALL), ["phase", *_STEP])
    whole = whole.filter(pl.col("n") > 0).sort("phase", *_STEP)
    rows: list[dict[str, Any]] = []
    for (phase,), of_phase in whole.group_by("phase", maintain_order=True):
        sums = sums_by_step(choose(dump, str(phase), "all"))
        for _, of_set in of_phase.group_by("dataset", maintain_order=True):
            rows += _rows(of_set, sums)
    return pl.DataFrame(rows, schema=_schema(), orient="row")


def _schema() -> dict[str, Any]:
    moved = {"moved": pl.String, "moved_part": pl.Float64, "best": pl.Int64}
    return {
        "phase": pl.String,
        "dataset": pl.String,
        "step": pl.Int64,
        "n": pl.Int64,
        **dict.fromkeys(["tfa", "tfce", *(f"share_{name}" for name in NAMES)], pl.Float64),
        **CHANGES,
        **moved,
        **{f"{name}_best": dtype for name, dtype in CHANGES.items()},
    }


def _rows(steps: pl.DataFrame, sums: Mapping[tuple[str, int], StepSums]) -> list[dict[str, Any]]:
    """Of one phase and data set, in the order of steps."""
    found: list[dict[str, Any]] = []
    before: Mapping[str, Any] | None = None
    best: Mapping[str, Any] | None = None
    for row in steps.iter_rows(named=True):
        told = {name: row[name] for name in ("phase", "dataset", "step", "n")}
        told |= {"tfa": row["correct"] / row["n"], "tfce": row["nll"] / row["n"]}
        told |= {f"share_{name}": row[f"class_{name}"] / row["n"] for name in NAMES}
        if before is not None and best is not None:
            told |= _changes(change(_sums(before, sums), _sums(row, sums)), "") | _moved(before, row)
            told |= _changes(change(_sums(best, sums), _sums(row, sums)), "_best") | {"best": best["step"]}
        found.append(told)
        before = row
        if best is None or told["tfce"] < best["nll"] / best["n"]:
            best = row
    return found


def _sums(row: Mapping[str, Any], sums: Mapping[tuple[str, int], StepSums]) -> StepSums:
    return sums[row["dataset"], row["step"]]


def _changes(found: Change, end: str) -> dict[str, Any]:
    values = (found.tfa, found.tfce, found.se_tfa, found.se_tfce, found.parted)
    return {f"{name}{end}": value for name, value in zip(CHANGES, values, strict=True)}


def _moved(before: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    parts = {name: row[f"nll_{name}"] / row["n"] - before[f"nll_{name}"] / before["n"] for name in NAMES}
    most = max(parts, key=lambda name: abs(parts[name]))
    return {"moved": most, "moved_part": parts[most]}


def told_parting(steps: pl.DataFrame) -> str:
    """When accuracy and loss parted, in a sentence per phase and data set that has several steps; "" if none has."""
    told: list[str] = []
    for (phase, dataset), rows in steps.group_by("phase", "dataset", maintain_order=True):
        if rows.height < 2:
            continue
        name = f"{phase} · {dataset}" if dataset else str(phase)
        since = rows.filter(pl.col("parted_best") == "both rose")
        count = int((rows["parted"].fill_null("") != "").sum())
        between = f"both moved the same way between {count} of {rows.height - 1} pairs of neighbouring steps"
        if since.is_empty():
            told.append(
                f"{name}: accuracy and loss never both rose since the lowest loss, beyond noise; {between}"
                if count
                else f"{name}: accuracy and loss never moved the same way, beyond noise, neither from step to step nor "
                f"since the lowest loss ({rows.height} steps)"
            )
            continue
        row = since.row(0, named=True)
        told.append(
            f"{name}: accuracy and loss part ways at step {row['step']:,}: since the lowest loss (step "
            f"{row['best']:,}) TFA {row['d_tfa_best']:+.4f} and TFCE {row['d_tfce_best']:+.4f} nats, beyond noise; "
            f"in its last step {WORDS[row['moved']]} tokens moved TFCE most ({row['moved_part']:+.4f}); {between}"
        )
    return "; ".join(told)
