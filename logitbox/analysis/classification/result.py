"""`Classification`: what `classification` returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from logitbox.analysis.classification.confusion import confusion_counts, confusions
from logitbox.analysis.classification.dashboard import dashboard, gaps
from logitbox.analysis.classification.evidence import Evidence
from logitbox.analysis.classification.settings import share
from logitbox.analysis.classification.speakers import group_table
from logitbox.analysis.classification.stopping import stopping
from logitbox.analysis.classification.uncertain import uncertain
from logitbox.analysis.results import Result
from logitbox.dumps.checks import as_integer, whole_number
from logitbox.errors import InputError

Step = int | str
"""Of an evaluation, or "last"."""


@dataclass(frozen=True, eq=False)
class Classification(Result):
    """A classifier's metrics, `docs/classification.md` defines each.

    Attributes:
        frame: `step`, `epoch`, `key`, `value`, `n`, `low`, `high` (95 %), `reason` (why a value is null). Keys
            `val/…` are of `phase`, `train/…` of training, `learning/…` of the series of evaluations.
        evidence: the sums behind it.
    """

    evidence: Evidence

    @property
    def phase(self) -> str | None:
        """The evaluation phase; None where there is none."""
        return self.evidence.settings.phase

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.evidence.settings.classes

    def value(self, key: str, step: Step = "last") -> float | None:
        """A key's value at a step, by default its last one.

        Raises:
            InputError: no such key, or none at that step.
        """
        rows = self.frame.filter(pl.col("key") == key)
        if not len(rows):
            known = ", ".join(sorted(self.frame["key"].unique()))
            raise InputError(f"there is no key {key!r}; keys are {known}")
        if step == "last":
            return rows["value"][-1]
        number = as_integer(step)
        found = rows.clear() if number is None else rows.filter(pl.col("step") == number)
        if not len(found):
            some = ", ".join(map(str, rows["step"].head(10)))
            raise InputError(f"{key} has no step {step!r}; it has {some}{', …' if len(rows) > 10 else ''}")
        return found["value"][0]

    def confusions(self, step: Step | None = "last", rate: float | None = None) -> pl.DataFrame:
        """Pairs of classes that are confused, the highest rate first.

        Args:
            step: of an evaluation, "last", or None for all of them.
            rate: only pairs above this share of gold's samples; by default `confusion_rate`.

        Returns:
            `step`, `gold`, `predicted`, `n` of `of` samples, `rate`, `low`, `high`, `expected` (null where no
            expected pairs were given), `gold_id`, `predicted_id`.
        """
        above = self.evidence.settings.confusion_rate if rate is None else share("rate", rate)
        if step is None:
            return confusions(self.evidence, self.evidence.evaluations["step"], above)
        return confusions(self.evidence, [self.evidence.step(step)], above)

    def confusion_matrix(self, step: Step = "last") -> pl.DataFrame:
        """`gold`, `predicted` (ids), `n`, where it is not 0."""
        at = self.evidence.step(step)
        return confusion_counts(self.evidence.pairs.filter(pl.col("step") == at))

    @cached_property
    def gaps(self) -> pl.DataFrame:
        """`source`, `train`, `val`, `gap`, `low`, `high`, `n_train`, `n_val`: accuracies, the widest gap first."""
        return gaps(self.evidence)

    @cached_property
    def stopping(self) -> pl.DataFrame:
        """`condition`, `holds`, `since_step`, `since_epoch`, `first_step`, `first_epoch`, `reason`."""
        return stopping(self.frame, self.evidence)

    @cached_property
    def dashboard(self) -> pl.DataFrame:
        """`key`, `value`, `low`, `high`, `step`, `trend`, `direction`, `detail` of the six priority metrics."""
        return dashboard(self.frame, self.evidence)

    def consistency(self, step: Step = "last") -> pl.DataFrame:
        """`group`, `dataset`, `pass`, `n`, `consistent`, `predicted`, `accuracy` of each group."""
        return group_table(self.evidence, self.evidence.step(step))

    def uncertain(self, n: int = 10, step: Step = "last") -> pl.DataFrame:
        """The `n` samples of highest entropy at an evaluation, with their keys.

        Raises:
            InputError: no such evaluation.
            DamagedDumpError: a shard was altered.
        """
        at = self.evidence.step(step)
        return uncertain(self.evidence, str(self.phase), at, whole_number("n", n, 1))
