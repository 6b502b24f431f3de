"""`label_issues`: samples ranked by how unlikely a model finds their label."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from logitbox.analysis.classification.settings import Names, namer, one_of
from logitbox.analysis.given import check_dump
from logitbox.analysis.intervals import Z95
from logitbox.analysis.labels.confident import Confident, Rows, confident, margins, thresholds
from logitbox.analysis.leftout import left_out
from logitbox.analysis.results import Result
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag
from logitbox.errors import InputError

RankBy = Literal["self_confidence", "margin"]

_ROW = ("dataset", "sample", "pos")
"""What is labelled."""

_SAMPLE = ("sample", "dataset", "key", "source", "group")
_COLUMNS = ("phase", "step", "pass", *_ROW, "gold", "nll", "top_nll", "top_ids", "top_gap")


@dataclass(frozen=True, eq=False)
class LabelIssues(Result):
    """Samples, the most doubtful label first.

    Attributes:
        frame: `key`, `dataset`, `source`, `group`, `gold`, `suggested` (the likeliest confident class, else the
            arg-max; null where that is gold), `predicted` (the arg-max), `self_confidence` p(gold), `margin` p(gold) − p of the
            likeliest other class, `is_issue`, and where it was read: `phase`, `step`, `sample`, `pos`, `gold_id`,
            `suggested_id`.
        n_issues: how many are likely wrong.
        thresholds: `label`, `threshold`, `n`: mean p of a class over the samples labelled so.
        joint: `gold`, `confident`, `n`: the confident joint, classes by id.
        from_training: whether the rows are of training.
        undetermined: samples whose confident class is outside the recorded best ones.
    """

    n_issues: int
    thresholds: pl.DataFrame
    joint: pl.DataFrame
    from_training: bool
    undetermined: int

    @property
    def issues(self) -> pl.DataFrame:
        """The samples whose label is likely wrong."""
        return self.frame.filter(pl.col("is_issue"))


def label_issues(
    dump: Dump, phase: str | None = None, *, rank_by: RankBy = "self_confidence", names: Names = None
) -> LabelIssues:
    """Rank samples by how likely their label is wrong, from the last evaluation of each.

    A label is likely wrong where confident learning assigns another class. Only rows a model was not trained on can
    tell: by default all phases but train are read. Where there is only train, its rows are, with a warning.

    Args:
        dump: an opened dump of a classifier.
        phase: only this one.
        rank_by: "self_confidence", p(gold), or "margin"; the lowest first.
        names: class names, by id; by default the vocabulary's.

    Raises:
        InputError: no such phase, or a dump without token rows.
        DamagedDumpError: a shard was altered.
    """
    if not check_dump(dump).shards("tokens"):
        raise InputError(
            f"{dump.path} holds no token rows yet; record something, or flush() a run in progress"
        )
    column = one_of("rank_by", rank_by, RankBy)
    name = namer(names, dump)
    dump.check(dump.shards("tokens"))  # single rows are shown: altered bytes must not pass for numbers
    found, lost, wanted = _last_rows(dump, phase)
    rows = _rows(found, max(session.spec.vocab_size for session in dump.sessions))
    limits = thresholds(rows)
    told = confident(rows, limits)
    ids = np.unique(np.concatenate([rows.gold, rows.ids[rows.ids >= 0]])).tolist()
    frame = _frame(found, rows, told, {index: name(index) for index in ids}).sort(
        column, *_ROW, nulls_last=True
    )
    samples = dump.samples.select(_SAMPLE).collect()
    frame = frame.join(samples, on=["sample", "dataset"], how="left", maintain_order="left").select(_SHOWN)
    undetermined, n_issues = int((told.best == -2).sum()), int(told.is_issue.sum())
    from_training = wanted == ["train"]
    return LabelIssues(
        frame,
        _verdict(frame, wanted, lost, n_issues, undetermined),
        n_issues,
        _threshold_table(rows, limits, name),
        _joint(rows, told),
        from_training,
        undetermined,
    )


_SHOWN = (
    *("key", "dataset", "source", "group", "gold", "suggested", "predicted", "self_confidence", "margin"),
    *("is_issue", "phase", "step", "sample", "pos", "gold_id", "suggested_id"),
)


def _last_rows(dump: Dump, phase: str | None) -> tuple[pl.DataFrame, dict[str, int], list[str]]:
    """(the last row of each sample, rows left out, phases that were read)."""
    rows = dump.tokens.filter((pl.col("flags") & int(Flag.SUPERVISED)) != 0)
    phases = sorted(rows.select("phase").unique().collect()["phase"])
    if phase is not None and phase not in phases:
        raise InputError(f"phase is {phase!r}; the dump has {', '.join(phases) or 'no supervised tokens'}")
    wanted = [phase] if phase is not None else [one for one in phases if one != "train"] or phases
    rows = rows.filter(pl.col("phase").is_in(wanted))
    flags = pl.col("flags")
    repeated = (flags & int(Flag.DUPLICATE)) != 0
    nonfinite = ~repeated & ((flags & int(Flag.NONFINITE)) != 0)
    lost = rows.select(n_nonfinite=nonfinite.sum(), n_duplicate=repeated.sum()).collect().row(0, named=True)
    good = rows.filter(~repeated, ~nonfinite)
    last = good.group_by(_ROW).agg(pl.col("step").max())
    # In two steps, so that lists are held of the last rows only.
    found = (
        good.select(_COLUMNS)
        .join(last, on=[*_ROW, "step"], how="semi")
        .collect(engine="streaming")
        .sort(*_ROW, "pass", "phase")
        .unique(_ROW, keep="last", maintain_order=True)
    )
    return found, lost, wanted


def _rows(found: pl.DataFrame, classes: int) -> Rows:
    gaps = _matrix(found["top_gap"], np.inf)
    best = -found["top_nll"].to_numpy().astype(np.float64)
    return Rows(
        gold=found["gold"].to_numpy().astype(np.int64),
        p_gold=np.exp(-found["nll"].to_numpy().astype(np.float64)),
        ids=_matrix(found["top_ids"], -1.0).astype(np.int64),
        p=np.exp(best[:, None] - gaps),
        classes=classes,
    )


def _matrix(lists: pl.Series, filling: float) -> NDArray[np.float64]:
    """Lists as rows of a matrix, filled up; one column at least."""
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    width = max(int(lengths.max()) if len(lengths) else 1, 1)
    matrix = np.full((len(lists), width), filling)
    matrix[np.arange(width) < lengths[:, None]] = (
        lists.list.explode(empty_as_null=False, keep_nulls=False).cast(pl.Float64).to_numpy()
    )
    return matrix


def _frame(found: pl.DataFrame, rows: Rows, told: Confident, names: dict[int, str]) -> pl.DataFrame:
    suggested = np.where(told.best >= 0, told.best, rows.ids[:, 0])
    named: dict[str, Any] = {"gold": rows.gold, "suggested": suggested, "predicted": rows.ids[:, 0]}
    text = {
        one: pl.Series(ids).replace_strict(names, default=None, return_dtype=pl.String)
        for one, ids in named.items()
    }
    differs = pl.col("suggested_id") != pl.col("gold_id")
    return (
        found.select("phase", "step", *_ROW)
        .with_columns(
            **text,
            gold_id=pl.Series(rows.gold),
            suggested_id=pl.Series(suggested),
            self_confidence=pl.Series(rows.p_gold),
            margin=pl.Series(margins(rows)).fill_nan(None),
            is_issue=pl.Series(told.is_issue),
        )
        .with_columns(pl.when(differs).then(pl.col("suggested", "suggested_id")))
    )


def _threshold_table(rows: Rows, limits: NDArray[np.float64], name: Any) -> pl.DataFrame:
    n = np.bincount(rows.gold, minlength=rows.classes)
    at = np.flatnonzero(n)
    columns = {"label": [name(int(index)) for index in at], "threshold": limits[at], "n": n[at]}
    return pl.DataFrame(columns, schema={"label": pl.String, "threshold": pl.Float64, "n": pl.Int64})


def _joint(rows: Rows, told: Confident) -> pl.DataFrame:
    pairs = pl.DataFrame({"gold": rows.gold, "confident": told.best}).filter(pl.col("confident") >= 0)
    counts = pairs.group_by("gold", "confident").agg(pl.len().cast(pl.Int64).alias("n"))
    return counts.sort("gold", "confident")


def _is_guessing(frame: pl.DataFrame) -> bool:
    """Whether Wilson's 95 % interval of the accuracy reaches down to the share of the most frequent label."""
    n = len(frame)
    if not n:
        return False
    share = float((frame["predicted"] == frame["gold"]).sum()) / n
    majority = int(np.bincount(frame["gold_id"].to_numpy()).max()) / n
    z2 = Z95 * Z95
    half = Z95 * sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = (share + z2 / (2 * n) - half) / (1 + z2 / n)
    return share < 1 and low <= majority


def _verdict(
    frame: pl.DataFrame, wanted: list[str], lost: dict[str, int], n_issues: int, undetermined: int
) -> str:
    total = len(frame)
    share = f" ({n_issues / total:.1%})" if total else ""
    parts = [f"{n_issues:,} of {total:,} labels of phase {', '.join(wanted)} are likely wrong{share}"]
    if "train" in wanted:
        parts.append(
            "these rows are of training: a model that memorised its labels agrees with them, wrong ones too; "
            "evaluate on samples it was not trained on"
        )
    if _is_guessing(frame):
        parts.append("the model is hardly better than guessing, so this ranking means little")
    if undetermined:
        parts.append(
            f"{undetermined:,} could not be told from the recorded best classes; record with a larger k"
        )
    if told := left_out(lost):
        parts.append(told)
    return "; ".join(parts)
