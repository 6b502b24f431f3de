"""From a checked micro-batch to a job of the writer: a place in the queue, the reduction, the copy to the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from logitbox.dumps.classifier import Typed
from logitbox.dumps.hostbatch import most_rows, select_rows
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.marks import Marks
from logitbox.dumps.naming import NamingTask
from logitbox.dumps.passes import Where
from logitbox.dumps.positions import Batch, Layout
from logitbox.dumps.reduce import Targets, reduce_logits
from logitbox.dumps.rows import TokenJob
from logitbox.dumps.samples import SampleBook
from logitbox.dumps.spec import RecordSpec
from logitbox.dumps.transfer import HostCopier, Pending, to_device
from logitbox.dumps.vocabulary import Vocabulary
from logitbox.dumps.writer import Writer


@dataclass
class Intake:
    """Takes micro-batches in: what of `Recorder.record` happens on the device."""

    spec: RecordSpec
    vocabulary: Vocabulary
    writer: Writer
    live: LiveMetrics
    book: SampleBook = field(default_factory=SampleBook)
    _copier: HostCopier = field(default_factory=HostCopier)
    _marks: Marks = field(init=False)

    def __post_init__(self) -> None:
        """Make what says more of a position than was given."""
        self._marks = Marks(self.vocabulary, self.live.groups)

    def take(
        self,
        batch: Batch,
        plan: Layout | None,
        whole: Mapping[str, Tensor],
        where: Where,
        naming: NamingTask,
        typed: Typed,
    ) -> None:
        """Reduce a micro-batch and hand it to the writer, unless that is behind and may drop it.

        The place in the queue comes first: what is dropped costs nothing and is not in the live metrics.
        """
        if not self.writer.admit(most_rows(plan)):
            return
        try:
            if plan is not None:
                types = self._marks.types(plan, batch, typed, _samples(whole, naming))
                plan = replace(plan, columns=plan.columns | types)
            job = TokenJob(
                spec=self.spec,
                naming=naming,
                shape=(batch.labels.shape[0], batch.labels.shape[1]),
                reduced=self._reduced(batch, plan, where),
                whole=self._copier.start(whole),
                book=self.book,
                types_given=typed.known,
                where=where,
            )
            self.writer.put(job, has_slot=True)
        except BaseException:
            self.writer.give_back()
            raise

    def _reduced(self, batch: Batch, plan: Layout | None, where: Where) -> Pending:
        """Start the reduction of the rows to keep, and their copy to the host."""
        nothing = Pending({"gold": torch.zeros(0, dtype=torch.long)})
        if plan is None:
            return nothing
        device = batch.logits.device
        rows, columns = select_rows(plan, now=plan.keep.device.type == "cpu")
        if rows is not None and len(rows) == 0:
            return nothing
        columns = {name: to_device(value, device) for name, value in columns.items()}
        columns |= reduce_logits(
            batch.logits,
            None if rows is None else to_device(rows, device),
            Targets(columns["gold"], columns.get("left"), columns.get("right")),
            self.live.groups,
            lse_beta=self.spec.records_lse_beta(where.phase),
        )
        columns["flags"] = self._marks.flags(columns)
        self.live.add(where, columns)
        return self._copier.start(columns)


def _samples(whole: Mapping[str, Tensor], naming: NamingTask) -> Tensor | None:
    """Sample id of each token, [B, T] or [N], where the caller told more than one a line."""
    return whole["sample"] if naming.kind == "token" or (naming.kind == "row" and naming.flat) else None
