"""From a checked micro-batch to a job of the writer: a place in the queue, the reduction, the copy to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from logitbox.dumps.circumstances import OnceOnly, refuse_capture
from logitbox.dumps.classifier import Classifier, Typed
from logitbox.dumps.hostbatch import SampleIds, most_rows, read_sample, select_rows, whole_batch
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.marks import Marks
from logitbox.dumps.naming import NamingTask
from logitbox.dumps.passes import Moment, PassClock, Where
from logitbox.dumps.positions import Batch, Layout, layout, make_batch
from logitbox.dumps.reduce import Targets, plain_arithmetic
from logitbox.dumps.reduce.source import LogitRows
from logitbox.dumps.rows import TokenJob
from logitbox.dumps.samples import SampleBook
from logitbox.dumps.spec import RecordSpec
from logitbox.dumps.told import Bits
from logitbox.dumps.transfer import HostCopier, Pending, to_device
from logitbox.dumps.vocabulary import Vocabulary
from logitbox.dumps.writer import Writer


@dataclass
class Intake:
    """Takes micro-batches in: what of `Recorder.record` happens on the device.

    Args:
        spec, vocabulary, classifier: what is recorded.
        writer, live: who gets it.
        clock: counts passes and micro-batches.
        every: train steps that are multiples of it are taken.
    """

    spec: RecordSpec
    vocabulary: Vocabulary
    classifier: Classifier
    writer: Writer
    live: LiveMetrics
    clock: PassClock
    every: int
    book: SampleBook = field(default_factory=SampleBook)
    _copier: HostCopier = field(default_factory=HostCopier)
    _once: OnceOnly = field(default_factory=OnceOnly)
    _marks: Marks = field(init=False)

    def __post_init__(self) -> None:
        """Make what says more of a position than was given."""
        self._marks = Marks(self.vocabulary, self.live.groups)

    def record(
        self,
        read: Callable[[], LogitRows],
        labels: Tensor,
        *,
        step: int = 0,
        phase: str = "train",
        dataset: str = "",
        sample: SampleIds | None = None,
        micro: int | None = None,
        epoch: float | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        types: Bits = None,
        flags: Bits = None,
        weight: Tensor | None = None,
        loss: Tensor | float | None = None,
        shift: bool = True,
    ) -> None:
        """Record the rows that `read` gives: it checks them, once it is known that they are wanted."""
        self.writer.check()
        moment = Moment.read(phase, dataset, step, epoch, micro)
        if moment.phase == "train" and moment.step % self.every:
            return
        if self._once.is_repeated():
            return
        self.live.check_phase(moment.phase)
        source = read()
        refuse_capture(source.device)
        typed = self.classifier.complete(
            types, labels, input_ids, attention_mask=attention_mask, position_ids=position_ids
        )
        with plain_arithmetic(source.device):
            batch = make_batch(
                source,
                labels,
                self.spec,
                shift=shift,
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                weight=weight,
                types=typed.masks,
                flags=flags,
            )
            given = read_sample(sample, batch)
            plan = layout(batch, self.spec) if batch.labels.numel() else None
            whole = whole_batch(batch, plan, given, loss)
            where = self.clock.place(moment)
            naming = NamingTask(given.kind, given.keys, batch.shift, batch.flat, position_ids is not None)
            self.take(batch, plan, whole, where, naming, typed)

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

        The place in the queue comes first: what is dropped costs nothing and is not in the live metrics. Only where
        other processes wait for this one's part it is reduced all the same.
        """
        if not (batch.source.writes and self.writer.admit(most_rows(plan))):
            if batch.source.is_shared and plan is not None:
                self._columns(batch, plan, where)
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
        columns = None if plan is None else self._columns(batch, plan, where)
        if columns is None:
            return Pending({"gold": torch.zeros(0, dtype=torch.long)})
        columns["flags"] = self._marks.flags(columns)
        self.live.add(where, columns)
        return self._copier.start(columns)

    def _columns(self, batch: Batch, plan: Layout, where: Where) -> dict[str, Tensor] | None:
        """What is known of the rows to keep, and what is computed of their logits; None where there are no such rows.

        Shards of the same rows have the same labels, and so choose the same rows.
        """
        device = batch.source.device
        rows, columns = select_rows(plan, now=plan.keep.device.type == "cpu")
        if rows is not None and len(rows) == 0:
            return None
        columns = {name: to_device(value, device) for name, value in columns.items()}
        return columns | batch.source.reduce(
            None if rows is None else to_device(rows, device),
            Targets(columns["gold"], columns.get("left"), columns.get("right")),
            self.live.groups,
            lse_beta=self.spec.records_lse_beta(where.phase),
        )


def _samples(whole: Mapping[str, Tensor], naming: NamingTask) -> Tensor | None:
    """Sample id of each token, [B, T] or [N], where the caller told more than one a line."""
    return whole["sample"] if naming.kind == "token" or (naming.kind == "row" and naming.flat) else None
