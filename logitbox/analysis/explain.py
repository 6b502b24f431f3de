"""`explain`: why accuracy (TFA) and cross-entropy (TFCE) say different things.

Every supervised token is in exactly one of the seven classes of `classes`. TFA is the share of right tokens; TFCE is
the sum of the classes' parts Σ nll / N. A token that is sure and right costs at most ln 2; one that is barely right
counts 1 in TFA and more than ln 2 in TFCE; a wrong or tied one costs at least ln 2, and a confidently wrong one at
least −ln(1 − p(arg-max)).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import polars as pl

from logitbox.analysis.certificates import Certificates, certify
from logitbox.analysis.classes import CLASSES, DEFAULT, NAMES, RIGHT_TIED, WORDS, Thresholds
from logitbox.analysis.discordance import Discordance, discordance_of
from logitbox.analysis.leftout import left_out
from logitbox.analysis.metrics import pooled
from logitbox.analysis.pairs.align import MIN_ALIGNED
from logitbox.analysis.pairs.choice import Choice, Step, choose
from logitbox.analysis.pairs.comparison import Comparison, compare
from logitbox.analysis.parting import steps_of, told_parting
from logitbox.analysis.populations import ALL
from logitbox.analysis.results import Result
from logitbox.analysis.sentences import Token, describe
from logitbox.analysis.splitting import by_columns, check_held, extra_keys
from logitbox.analysis.tally import Tally
from logitbox.analysis.tallying import Progress, tally_dump
from logitbox.dumps.dump import Dump
from logitbox.errors import InputError


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """The TFA/TFCE table. What needs another look at the tokens is computed when first asked for.

    Attributes:
        frame: per phase, by-columns and type a row per class: `cell` (its name), `n`, `share` of tokens, `tfa_part`,
            `tfce_part` (both add up to the totals), `mean_nll` in the class (null if empty), and the totals `tfa`,
            `tfce`.
        thresholds: where the classes were cut.
        dump: what was explained; None where a tally alone was.
        tally: its sums.
    """

    thresholds: Thresholds = DEFAULT
    dump: Dump | None = None
    tally: Tally | None = None

    @property
    def rules(self) -> pl.DataFrame:
        """The classes in order: `cell`, `words`, `rule` (the first that holds counts), what it does to `tfa`, `tfce`."""
        rows = [
            (kind.name, kind.words, kind.at(self.thresholds)[0], kind.tfa, kind.at(self.thresholds)[1])
            for kind in CLASSES
        ]
        return pl.DataFrame(rows, schema=["cell", "words", "rule", "tfa", "tfce"], orient="row")

    @cached_property
    def discordance(self) -> dict[str, Discordance]:
        """By phase, of its last step: how often a random right token costs more than a random wrong one."""
        return {phase: discordance_of(choose(self._opened, phase)) for phase in self._phases}

    @cached_property
    def certificates(self) -> dict[str, Certificates]:
        """By phase, of its last step: that both metrics are right, shown on every token."""
        return {phase: certify(choose(self._opened, phase)) for phase in self._phases}

    @cached_property
    def steps(self) -> pl.DataFrame:
        """Both metrics and the classes' shares by step, and where both metrics rose or both fell (see `steps_of`)."""
        return steps_of(self._opened, self._tally)

    @property
    def parting(self) -> str:
        """When accuracy and loss parted ways, in words; "" where no phase has two steps."""
        return told_parting(self.steps)

    def token(
        self,
        key: str | int,
        pos: int,
        *,
        phase: str | None = None,
        step: Step = "last",
        dataset: str | None = None,
    ) -> Token:
        """One token: what the model thought of it, and what that did to each metric.

        Args:
            key: the sample's key.
            pos: position in its sample.
            phase: by default the last evaluation.
            step: a step, "last", or "all" for its latest evaluation.
            dataset: needed where several have such a sample.

        Raises:
            InputError: there is no such token.
        """
        choice = choose(self._opened, phase, step, dataset)
        return describe(choice, key, pos, self.thresholds, _mean_nll(self._tally, choice))

    def sentence(
        self,
        key: str | int,
        pos: int,
        *,
        phase: str | None = None,
        step: Step = "last",
        dataset: str | None = None,
    ) -> str:
        """`token` in a sentence."""
        return str(self.token(key, pos, phase=phase, step=step, dataset=dataset))

    def choice(self, phase: str | None = None, step: Step = "last", dataset: str | None = None) -> Choice:
        """The tokens of an evaluation, to read them again (see `choose`)."""
        return choose(self._opened, phase, step, dataset)

    def by_step(self) -> Explanation:
        """The same per data set and step."""
        return explain_of_tally(self._tally, ("dataset", "step"), self.thresholds, self.dump)

    @property
    def _opened(self) -> Dump:
        if self.dump is None:
            raise InputError("this explanation was made of a tally alone; explain(dump) has all the rest")
        return self.dump

    @property
    def _tally(self) -> Tally:
        if self.tally is None:
            raise InputError("this explanation was made of a tally alone; explain(dump) has all the rest")
        return self.tally

    @property
    def _phases(self) -> list[str]:
        """Those with supervised tokens."""
        return self._tally.cells["phase"].unique().sort().to_list()


@overload
def explain(
    dump: Dump,
    against: None = None,
    *,
    by: str | Sequence[str] | None = None,
    thresholds: Thresholds = DEFAULT,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Explanation: ...


@overload
def explain(
    dump: Dump,
    against: Dump,
    *,
    phase: str | None = None,
    step: Step = "last",
    against_step: Step | None = None,
    dataset: str | None = None,
    min_aligned: float = MIN_ALIGNED,
) -> Comparison: ...


def explain(
    dump: Dump,
    against: Dump | None = None,
    *,
    by: str | Sequence[str] | None = None,
    thresholds: Thresholds = DEFAULT,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **chosen: Any,
) -> Explanation | Comparison:
    """Where accuracy and cross-entropy come from, class by class; or why two evaluations of the same tokens differ.

    Args:
        dump: an opened dump.
        against: another evaluation of the same tokens, to compare with: another dump, or the same one.
        by: of one dump: as in `metrics`.
        thresholds: of one dump: where the token classes are cut; others than the default need a pass of their own.
        executor: of one dump: where to tally shards.
        progress: of one dump: told after every shard.
        chosen: of two: `phase`, `step`, `against_step`, `dataset`, `min_aligned`, as of `pairs.comparison.compare`.

    Raises:
        InputError: an unknown column in `by`, a dump without token rows, an option that is for the other case, or
            two dumps of which too few tokens are the same.
    """
    if against is not None:
        if by is not None or thresholds != DEFAULT:
            raise InputError(
                "by= and thresholds= are for one dump; a comparison has types and subsets anyhow"
            )
        return compare(dump, against, **chosen)
    if chosen:
        raise InputError(f"{', '.join(chosen)}= is for a comparison; give against=, or filter by with by=")
    names = by_columns(by)
    tally = tally_dump(dump, extra_keys(names), executor, progress, thresholds=thresholds)
    return explain_of_tally(tally, names, thresholds, dump)


def explain_of_tally(
    tally: Tally, by: Sequence[str] = (), thresholds: Thresholds = DEFAULT, dump: Dump | None = None
) -> Explanation:
    """`explain` from a tally at hand, which was made with these thresholds."""
    columns = check_held(tally.cells, by_columns(by))
    keys = ["phase", *(name for name in columns if name not in ("phase", "type")), "type"]
    shown = ~pl.col("type").str.contains(".", literal=True)  # for internal use
    cells = pooled(tally.cells.filter(shown), keys).filter(pl.col("n") > 0)
    frame = pl.concat([_class_rows(cells, keys, name) for name in NAMES])
    order = pl.col("cell").replace_strict({name: i for i, name in enumerate(NAMES)}, return_dtype=pl.Int64)
    frame = frame.sort([*keys, order], nulls_last=True)
    return Explanation(frame, _verdict(tally), thresholds, dump, tally)


def _class_rows(cells: pl.DataFrame, keys: Sequence[str], name: str) -> pl.DataFrame:
    total, count, nll = pl.col("n"), pl.col(f"class_{name}"), pl.col(f"nll_{name}")
    of_right = {"tied": pl.col(RIGHT_TIED), "sure_right": count, "barely_right": count}
    return cells.select(
        *keys,
        pl.lit(name).alias("cell"),
        count.cast(pl.Int64).alias("count"),
        (count / total).alias("share"),
        (of_right.get(name, pl.lit(0.0)) / total).alias("tfa_part"),
        (nll / total).alias("tfce_part"),
        pl.when(count > 0).then(nll / count).alias("mean_nll"),
        (pl.col("correct") / total).alias("tfa"),
        (pl.col("nll") / total).alias("tfce"),
    ).rename({"count": "n"})


def _verdict(tally: Tally) -> str:
    parts: list[str] = []
    whole = pooled(tally.cells.filter(pl.col("type") == ALL), ["phase"]).sort("phase")
    for row in whole.iter_rows(named=True):
        n, tfce = row["n"], row["nll"]
        lost = f" ({told})" if (told := left_out(row)) else ""
        if not n:
            parts.append(f"{row['phase']}: no finite supervised tokens{lost}")
            continue
        most = max(NAMES, key=lambda name: row[f"nll_{name}"])
        shown = dict.fromkeys([most, "confidently_wrong"] if tfce > 0 else ["confidently_wrong"])
        carried = ", ".join(
            f"{WORDS[name]} tokens ({row[f'class_{name}'] / n:.1%} of all) carry "
            + (f"{row[f'nll_{name}'] / tfce:.1%} of TFCE" if tfce > 0 else "none of TFCE")
            for name in shown
        )
        parts.append(
            f"{row['phase']}: TFA {row['correct'] / n:.4f}, TFCE {tfce / n:.4f} nats over {n:,} tokens{lost}; {carried}"
        )
    return "; ".join(parts) if parts else "no supervised tokens were recorded"


def _mean_nll(tally: Tally, choice: Choice) -> float | None:
    """TFCE of the chosen evaluations."""
    cells = tally.cells.filter((pl.col("type") == ALL) & (pl.col("phase") == choice.phase))
    there = cells.join(choice.places, on=["dataset", "pass", "step"], how="semi")
    n, nll = int(there["n"].sum()), float(there["nll"].sum())
    return nll / n if n else None
