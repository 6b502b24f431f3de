"""Series of a token run's dump: `metrics` by step, and what it takes the tokens themselves to know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from math import exp, log, sqrt
from typing import Any

import polars as pl

from logitbox.analysis.calibration import calibration
from logitbox.analysis.doctor.series import Facts, Series, series_frame
from logitbox.analysis.doctor.sources.logs import Row, series_rows
from logitbox.analysis.intervals import Z95
from logitbox.analysis.metrics import metrics
from logitbox.analysis.passes import Progress
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.errors import InputError

_USUAL = ("eval", "val", "validation", "dev", "test")
_GROUP_KEYS = (
    (re.compile(r"^(?P<g>.+)_monitor/flip_(?P=g)_to_non(?P=g)$"), "flip_out/{g}"),
    (re.compile(r"^(?P<g>.+)_monitor/flip_(?P<t>.+)_to_(?P=g)$"), "flip_in/{t} → {g}"),
    (re.compile(r"^(?P<g>.+)_softce_w1/soft_ce$"), "soft_ce/{g}"),
    (re.compile(r"^(?P<t>.+)_token_acc$"), "type_acc/{t}"),
    (re.compile(r"^(?P<t>.+)_full_entropy$"), "type_entropy/{t}"),
)
"""Keys of groups and types, whatever they are called, to families that rules can name."""
_CONFIDENT = 0.9


def token_series(
    dump: Dump,
    phase: str | None,
    aliases: Mapping[str, str],
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Series:
    """Series of a token run by step: keys of `metrics` as `eval/KEY` and `train/KEY`, families of groups, ECE.

    Further keys: `eval/ece`, `eval/confident_errors` (share wrong of tokens with p > 0.9), and for ordered groups
    `eval/bins_used/GROUP` (exp of the entropy of the arg-max bins over that of the gold bins).
    """
    phases = (
        sorted(dump.tokens.select(pl.col("phase").unique()).collect()["phase"])
        if dump.shards("tokens")
        else []
    )
    chosen = _choose(phase, phases)
    epochs = _epochs(dump)
    named = {chosen: "eval"} | ({"train": "train"} if chosen != "train" else {})
    coordinates = {n for s in dump.sessions for n in ("coord", *s.spec.ordered)}
    rows = [
        *_metric_rows(dump, named, coordinates, executor, progress),
        *_calibration_rows(dump, chosen, executor),
        *_confident_errors(dump, chosen),
        *_bins_used(dump, chosen),
    ]
    rows = [row | {"epoch": epochs.get((named_phase(row, chosen), row["step"]))} for row in rows]
    known = {row["key"] for row in rows}
    logged = dump.scalars.select("step", "key", "value").collect().to_dicts()
    rows += [row for row in series_rows(logged, aliases) if row["key"] not in known]
    size = max(session.spec.vocab_size for session in dump.sessions)
    notes = (f"eval/… is phase {chosen!r}",) if chosen != "eval" else ()
    return Series(series_frame(rows), Facts(str(dump.path), size, chosen, has_logits=True, notes=notes))


def named_phase(row: Row, chosen: str) -> str:
    """The phase that a row's key is of."""
    return "train" if row["key"].startswith("train/") else chosen


def _choose(wanted: str | None, phases: Sequence[str]) -> str:
    if not phases:
        raise InputError("the dump holds no token rows yet; record something, or flush() a run in progress")
    if wanted is not None and wanted not in phases:
        raise InputError(f"phase is {wanted!r}; the dump has {', '.join(phases)}")
    others = [name for name in phases if name != "train"]
    usual = [name for name in _USUAL if name in others]
    return wanted or (usual or others or list(phases))[0]


def _epochs(dump: Dump) -> dict[tuple[str, int], float]:
    """Epoch of each (phase, step), where it was recorded."""
    if "epoch" not in dump.tokens.collect_schema():
        return {}
    found = dump.tokens.group_by("phase", "step").agg(pl.col("epoch").max()).collect(engine="streaming")
    return {(p, s): float(e) for p, s, e in found.iter_rows() if e is not None}


def _metric_rows(
    dump: Dump,
    named: Mapping[str, str],
    coordinates: AbstractSet[str],
    executor: Executor | None,
    progress: Progress | None,
) -> Iterator[Row]:
    found = metrics(dump, by=["phase", "step"], executor=executor, progress=progress).frame
    for row in found.filter(pl.col("phase").is_in(list(named)) & pl.col("value").is_not_null()).iter_rows(
        named=True
    ):
        bare = _bare(row["key"], row["phase"])
        here = {name: row[name] for name in ("step", "value", "low", "high", "n")}
        for key in (bare, *_families(bare, coordinates)):
            yield here | {"key": f"{named[row['phase']]}/{key}"}


def _bare(key: str, phase: str) -> str:
    """A key without the prefix of its phase (train has none)."""
    return key.removeprefix(f"{phase}_")


def _families(bare: str, coordinates: AbstractSet[str]) -> Iterator[str]:
    """Families that a key belongs to.

    Flips and bins only of ordered groups and of one called coord: leaving any other, such as line breaks, is an error
    like others.
    """
    for pattern, family in _GROUP_KEYS:
        found = pattern.match(bare)
        if found and found.groupdict().get("g", "coord") in {*coordinates, "coord"}:
            yield family.format(**found.groupdict())
            return


def _calibration_rows(dump: Dump, phase: str, executor: Executor | None) -> Iterator[Row]:
    """ECE of all tokens by step, with its interval where there is one."""
    frame = calibration(dump, by="step", executor=executor).frame
    for row in frame.filter(pl.col("phase") == phase).iter_rows(named=True):
        if row.get("type", "") not in ("", None) or row["ece"] is None:
            continue
        ends = {"low": row.get("ece_low"), "high": row.get("ece_high")}
        yield {"key": "eval/ece", "step": row["step"], "value": row["ece"], "n": row["n"]} | ends


def _good(dump: Dump, phase: str) -> pl.LazyFrame:
    """Supervised rows of a phase that are finite and no repetition."""
    lost, flags = int(Flag.DUPLICATE | Flag.NONFINITE), pl.col("flags")
    kept = ((flags & int(Flag.SUPERVISED)) != 0) & ((flags & lost) == 0)
    return dump.tokens.filter((pl.col("phase") == phase) & kept)


def _confident_errors(dump: Dump, phase: str) -> Iterator[Row]:
    """By step, of tokens whose arg-max has p > 0.9 the share that is wrong; interval clustered by sample."""
    sure = _good(dump, phase).filter(pl.col("top_nll") < -log(_CONFIDENT))
    wrong = (pl.col("n_gt") + pl.col("n_eq_before")) > 0
    per = (
        sure.group_by("step", "dataset", "sample")
        .agg(n=pl.len(), wrong=wrong.sum())
        .collect(engine="streaming")
    )
    for (step,), rows in per.sort("step", "dataset", "sample").group_by("step", maintain_order=True):
        value, low, high = _share(rows["wrong"].cast(pl.Float64), rows["n"].cast(pl.Float64))
        here = {"step": step, "value": value, "low": low, "high": high, "n": int(rows["n"].sum())}
        yield here | {"key": "eval/confident_errors"}


def _share(x: pl.Series, n: pl.Series) -> tuple[float, float | None, float | None]:
    """Σx/Σn with the interval of `intervals`: of clusters, and Wilson's where all clusters agree."""
    total, g = float(n.sum()), len(n)
    value = float(x.sum()) / total
    if g < 2:
        return value, None, None
    residual = x - value * n
    error = sqrt(g / (g - 1) * float((residual * residual).sum())) / total
    if error > 0:
        return value, value - Z95 * error, value + Z95 * error
    z2 = Z95 * Z95
    centre = (value + z2 / (2 * g)) / (1 + z2 / g)
    half = Z95 * sqrt(value * (1 - value) / g + z2 / (4 * g * g)) / (1 + z2 / g)
    return value, min(centre - half, value), max(centre + half, value)


def _bins_used(dump: Dump, phase: str) -> Iterator[Row]:
    """By step and ordered group, how many bins the arg-max is spread over, against gold: exp(H) over exp(H)."""
    columns = set(dump.tokens.collect_schema().names())
    groups = {
        group.name: group.ids
        for s in dump.sessions
        for group in s.spec.groups
        if group.name in s.spec.ordered
    }
    for name, ids in groups.items():
        if f"{name}_bin" not in columns:
            continue
        inside = _good(dump, phase).filter(
            pl.col(f"{name}_bin").is_not_null() & pl.col("gold").is_in(list(ids))
        )
        predicted, gold = (_spread_of(inside, column) for column in (f"{name}_bin", "gold"))
        for step, (effective, n) in sorted(predicted.items()):
            yield {"key": f"eval/bins_used/{name}", "step": step, "value": effective / gold[step][0], "n": n}


def _spread_of(rows: pl.LazyFrame, column: str) -> dict[int, tuple[float, int]]:
    """By step: effective number of values, exp of their entropy, and how many rows."""
    counted: Any = rows.group_by("step", column).len().sort("step", column).collect(engine="streaming")
    found: dict[int, tuple[float, int]] = {}
    for (step,), group in counted.group_by("step", maintain_order=True):
        counts = group["len"].cast(pl.Float64)
        p = counts / counts.sum()
        found[int(step)] = (exp(-float((p * p.log()).sum())), int(counts.sum()))
    return found
