"""What a report is made from: every (phase, dataset) at its last step, and all steps together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from logitbox.analysis.calibration.dumped import CalibrationTable, calibration_of_scan
from logitbox.analysis.calibration.scan import Scan, scan
from logitbox.analysis.explain import Explanation, explain_of_tally
from logitbox.analysis.metrics import Metrics, metrics_of_tally, registered
from logitbox.analysis.passes import Progress
from logitbox.analysis.populations import ALL
from logitbox.analysis.tally import Tally
from logitbox.dumps.definitions.entries import Metric, full_keys
from logitbox.dumps.definitions.groups import rest_of
from logitbox.dumps.dump import Dump
from logitbox.reports import texts

MAX_STREAMS, MAX_TYPES, MAX_GROUPS = 6, 12, 4

MAX_STEPS = 60
"""Steps at which calibration is shown, evenly spaced over those recorded."""


@dataclass(frozen=True)
class Stream:
    """One phase and dataset at its last recorded step.

    Attributes:
        steps: steps recorded of it.
        keys: of its metrics, without prefix to with it.
        frame: rows of `metrics` at the last step.
        calibration, explanation: of the last step. Here and above, its passes are pooled.
        sums: what calibration is made of, at some steps (see `MAX_STEPS`) and the last.
    """

    phase: str
    dataset: str
    step: int
    steps: int
    passes: int
    keys: Mapping[str, str]
    frame: pl.DataFrame
    calibration: CalibrationTable
    explanation: Explanation
    sums: Scan = field(repr=False)

    @cached_property
    def calibration_by_step(self) -> CalibrationTable:
        """Of all tokens, at no more than MAX_STEPS steps; of training only the last one where there are evaluations."""
        return calibration_of_scan(self.sums, intervals=True, types=(ALL,))

    @property
    def label(self) -> str:
        """How the page calls it."""
        return f"{self.phase} · {self.dataset}" if self.dataset else self.phase

    @cached_property
    def rows(self) -> dict[str, dict[str, float | None]]:
        """Rows of `metrics` by key without prefix."""
        return {self.bare(str(row["key"])): row for row in self.frame.iter_rows(named=True)}

    def bare(self, key: str) -> str:
        """A key without its prefix."""
        return self._bare.get(key, key)

    @cached_property
    def _bare(self) -> dict[str, str]:
        return {full: bare for bare, full in self.keys.items()}

    @property
    def verdict(self) -> str:
        """Accuracy and loss in a line."""
        n, lost, repeated = (self.value(key) or 0 for key in ("n_tokens", "n_nonfinite", "n_duplicate"))
        some = [f"{texts.count(lost)} with NaN or infinite values"] if lost else []
        some += [f"{texts.count(repeated)} repeated by a sampler"] if repeated else []
        left_out = f"{' and '.join(some)} left out" if some else ""
        if not n:
            return f"no finite supervised tokens ({left_out})"
        accuracy, nll, perplexity = (self.value(key) for key in ("token_acc", "nll", "exp_nll"))
        told = f"accuracy {texts.share(accuracy)}, nll {texts.number(nll)} nats (perplexity {texts.number(perplexity)})"
        return f"{told} over {texts.plural(int(n), 'token')}{f' ({left_out})' if left_out else ''}"

    def value(self, key: str) -> float | None:
        """A metric at the last step, by its key without prefix."""
        return self.rows[key]["value"] if key in self.rows else None


@dataclass(frozen=True)
class Material:
    """All that the sections are made from.

    Attributes:
        streams: those that are shown, evaluations first; `others` are the labels of the rest.
        metrics: the registered metrics that are shown, in order.
        types: token types and groups that are shown, most tokens first; `n_types` in all.
        by_step: every metric by phase, dataset and step.
    """

    dump: Dump
    tally: Tally
    streams: tuple[Stream, ...]
    others: tuple[str, ...]
    metrics: tuple[Metric, ...]
    types: tuple[str, ...]
    n_types: int
    by_step: Metrics

    @property
    def main(self) -> Stream:
        """The stream the page's head speaks of."""
        return self.streams[0]

    @property
    def populations(self) -> set[str]:
        """Shown types, groups, and the rests of shown groups."""
        groups = {group.name for session in self.dump.sessions for group in session.spec.groups}
        specs = [session.spec for session in self.dump.sessions]
        return {
            *self.types,
            *(rest_of(spec, name) for spec in specs for name in self.types if name in groups),
        }

    def steps_of(self, stream: Stream) -> Metrics:
        """`by_step` of one stream."""
        frame = self.by_step.frame
        here = (pl.col("phase") == stream.phase) & (pl.col("dataset") == stream.dataset)
        return Metrics(frame.filter(here), self.by_step.verdict, (stream.phase,))


def gather(
    dump: Dump, tally: Tally, executor: Executor | None = None, progress: Progress | None = None
) -> Material:
    """Everything that the sections share.

    Args:
        dump: an opened dump.
        tally: all of it.
        executor: where to sum up its shards for calibration.
        progress: told after every shard.
    """
    whole = tally.cells.filter(pl.col("type") == ALL)
    # Evaluations first: they are what a report is read for.
    places = (
        whole.select("phase", "dataset")
        .unique()
        .sort(pl.col("phase") == "train", pl.col("phase"), pl.col("dataset"))
    )
    names: list[tuple[str, str]] = places.rows()
    by_step = metrics_of_tally(tally, dump, ("phase", "dataset", "step"))
    known = registered(dump)
    phases = {phase for phase, _ in names}
    wanted = _steps_of_calibration(whole, names[:MAX_STREAMS])
    sums = scan(
        dump,
        ("dataset", "step"),
        executor=executor,
        progress=progress,
        only=lambda cells: _held(cells, wanted),
    )
    streams = tuple(
        _stream(phase, dataset, tally, by_step, full_keys(known, phase, phases), sums)
        for phase, dataset in names[:MAX_STREAMS]
    )
    others = tuple(f"{phase} · {dataset}" if dataset else phase for phase, dataset in names[MAX_STREAMS:])
    groups = tuple(dict.fromkeys(group.name for session in dump.sessions for group in session.spec.groups))
    every = tuple(dict.fromkeys([*dump.types.names, *groups]))
    kept_groups = _largest(tally, groups, MAX_GROUPS)
    rest = [name for name in every if name not in groups]
    kept = {*kept_groups, *_largest(tally, rest, MAX_TYPES - len(kept_groups))}
    types = tuple(name for name in every if name in kept)
    hidden = set(every) - set(types)
    left_out = {*hidden, *(rest_of(session.spec, name) for session in dump.sessions for name in hidden)}
    return Material(
        dump=dump,
        tally=tally,
        streams=streams,
        others=others,
        metrics=tuple(metric for metric in known if _is_shown(metric, left_out)),
        types=types,
        n_types=len(every),
        by_step=by_step,
    )


def _steps_of_calibration(cells: pl.DataFrame, names: Sequence[tuple[str, str]]) -> pl.DataFrame:
    """Columns phase, dataset, step: where calibration is wanted. Training is seen at its last step, if there is more."""
    found: list[tuple[str, str, int]] = []
    only_training = all(phase == "train" for phase, _ in names)
    for phase, dataset in names:
        here = cells.filter((pl.col("phase") == phase) & (pl.col("dataset") == dataset))
        steps = here["step"].unique().sort().to_list()
        most = MAX_STEPS if phase != "train" or only_training else 1
        gaps = max(1, min(most, len(steps)) - 1)
        at = {(len(steps) - 1) * i // gaps for i in range(gaps)} if most > 1 else set[int]()
        found += [(phase, dataset, steps[i]) for i in sorted(at | {len(steps) - 1})]
    schema = {name: cells.schema[name] for name in ("phase", "dataset", "step")}
    return pl.DataFrame(found, schema, orient="row")


def _held(cells: pl.DataFrame, wanted: pl.DataFrame) -> pl.Series:
    """Whether each cell's place is one of those wanted."""
    told = cells.select("phase", "dataset", "step").join(
        wanted.with_columns(_held=pl.lit(value=True)),
        on=["phase", "dataset", "step"],
        how="left",
        maintain_order="left",
    )
    return told["_held"].fill_null(value=False)


def _stream(
    phase: str, dataset: str, tally: Tally, by_step: Metrics, keys: Mapping[str, str], sums: Scan
) -> Stream:
    here = (pl.col("phase") == phase) & (pl.col("dataset") == dataset)
    steps = tally.cells.filter(here)["step"].unique().sort()
    last = int(steps[-1])
    at_last = here & (pl.col("step") == last)
    view = Tally(tally.cells.filter(at_last))
    mine = sums.narrowed(phase=phase, dataset=dataset)
    # Filtered, not evaluated anew: evaluating metrics costs more than all the rest.
    frame = by_step.frame.filter(at_last)
    return Stream(
        phase=phase,
        dataset=dataset,
        step=last,
        steps=len(steps),
        passes=view.cells["pass"].n_unique(),
        keys=keys,
        frame=frame,
        calibration=calibration_of_scan(mine.narrowed(step=last)),
        explanation=explain_of_tally(view),
        sums=mine,
    )


def _largest(tally: Tally, names: Sequence[str], most: int) -> list[str]:
    """Those of the names that have most tokens."""
    counts = tally.cells.group_by("type").agg(pl.col("n").sum())
    n_of: dict[str, int] = dict(counts.select("type", "n").rows())
    return sorted(names, key=lambda name: -n_of.get(name, 0))[:most]


def _is_shown(metric: Metric, left_out: set[str]) -> bool:
    if metric.population.partition(".")[0] in left_out:
        return False
    return metric.quantity not in {
        f"{of}_{name}" for name in left_out for of in ("is", "mass", "top_in", "top_out")
    }
