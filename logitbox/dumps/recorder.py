"""`Recorder`: what a training or evaluation loop talks to."""

from __future__ import annotations

import atexit
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from logitbox.dumps.flags import IGNORED
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.locks import RankLock
from logitbox.dumps.manifest import Session
from logitbox.dumps.positions import Batch, Layout, layout, make_batch, sample_shape
from logitbox.dumps.reduce import GroupIndex, Targets, reduce_logits
from logitbox.dumps.rows import Given, TokenJob, Where
from logitbox.dumps.samples import SampleBook
from logitbox.dumps.session import (
    agree_on_session,
    create_dump,
    find_place,
    known_vocabularies,
    versions,
    write_session,
)
from logitbox.dumps.spec import LseBeta, Scope, TokenTypes, build_spec
from logitbox.dumps.transfer import HostCopier, Pending
from logitbox.dumps.usertables import SamplesJob, samples_table, scalars_job, vocab_job
from logitbox.dumps.vocabulary import Tokenizer, build_vocabulary
from logitbox.dumps.writer import Job, OnFull, Writer, WriterOptions
from logitbox.errors import InputError

Bits = Tensor | Mapping[str, Tensor] | None


class Recorder:
    """Records every predicted token of a run into a dump.

    Args:
        path: folder of the dump; created, or appended to as a new session.
        vocab: a tokenizer, the token strings, or the vocabulary size.
        k: how many of the best tokens to keep per position; default 32, clamped to the vocabulary.
        groups: name to token ids, for the probability mass inside them.
        ordered: group name to options (see `OrderedSpec`), for groups whose ids are ordered bins.
        types: names of token types, whose masks `record(types=…)` then takes.
        every: record training steps that are multiples of this; other phases are always recorded.
        scope: "supervised" positions, or "all" (needs `input_ids`).
        probes: also score each row's logits against the neighbouring labels (evidence for shift bugs).
        lse_beta: "eval" (all phases but train), "always" or "never".
        resume_from: hide training rows of earlier sessions from this step on (training was set back).
        enabled: False makes every call do nothing.
        vocab_size: the logits' last dimension, where embeddings are padded beyond the tokenizer.
        accumulation: micro-batches per optimizer step, if the trainer has a fixed number; only noted.
        length_unit: unit of the `length` column of `samples`, such as "s"; only noted.
        rank, world, session: from torch.distributed where it is initialised; else 0, 1 and a new id.
        on_full: what to do when the writer is behind: "wait", or "drop" the micro-batch and count it.
        queue_size, shard_rows, flush_seconds: limits of the writer (micro-batches waiting, rows a shard,
            longest time between shards).

    Raises:
        InputError: an argument is out of range; nothing was written.
        NotADumpError, LockedError: the folder holds something else, or is being recorded.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        vocab: int | Sequence[str | bytes] | Tokenizer,
        k: int | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        ordered: Mapping[str, Mapping[str, Any]] | None = None,
        types: TokenTypes | Sequence[str] | None = None,
        every: int = 1,
        scope: Scope = "supervised",
        probes: bool = False,  # noqa: FBT001, FBT002 (the contract's order)
        lse_beta: LseBeta | bool = "eval",
        resume_from: int | None = None,
        enabled: bool = True,  # noqa: FBT001, FBT002
        *,
        vocab_size: int | None = None,
        accumulation: int | None = None,
        length_unit: str | None = None,
        rank: int | None = None,
        world: int | None = None,
        session: str | None = None,
        on_full: OnFull = "wait",
        queue_size: int = 64,
        shard_rows: int = 65_536,
        flush_seconds: float = 300.0,
    ) -> None:
        self.path = Path(path)
        self.enabled = enabled
        self._live = LiveMetrics()
        self._closed = False
        if every < 1:
            raise InputError(f"every is {every}; it must be 1 or more (record each that many-th training step)")
        if on_full not in ("wait", "drop"):
            raise InputError(f"on_full is {on_full!r}; allowed are 'wait' and 'drop'")
        for name, value in (("queue_size", queue_size), ("shard_rows", shard_rows)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")
        self._vocabulary = build_vocabulary(vocab, vocab_size)
        self.spec = build_spec(
            self._vocabulary.size, k, groups, ordered, types, probes=probes, lse_beta=lse_beta, scope=scope
        )
        if not enabled:
            return
        place = find_place(rank, world, session)
        create_dump(self.path)
        self._lock = RankLock(self.path, place.rank)
        try:
            told = self._vocabulary.fingerprint in known_vocabularies(self.path)
            self.session = Session(
                session=agree_on_session(self.path, place),
                rank=place.rank,
                world=place.world,
                spec=self.spec,
                every=every,
                accumulation=accumulation,
                resume_from=resume_from,
                vocabulary_fingerprint=self._vocabulary.fingerprint,
                has_token_text=bool(self._vocabulary.tokens),
                bos=self._vocabulary.bos,
                eos=self._vocabulary.eos,
                length_unit=length_unit,
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                versions=versions(),
            )
            write_session(self.path, self.session)
            options = WriterOptions(shard_rows, flush_seconds, queue_size, on_full)
            self._writer = Writer(self.path, self.session.owner, options)
        except BaseException:
            self._lock.release()
            raise
        self._groups = GroupIndex(self.spec)
        self._copier = HostCopier()
        self._book = SampleBook()
        self._clock = _PassClock()
        atexit.register(self.close)  # a script that forgets close() loses nothing
        if self._vocabulary.tokens and place.rank == 0 and not told:
            self._writer.put(vocab_job(self._vocabulary, self.spec))

    def record(
        self,
        logits: Tensor,
        labels: Tensor,
        step: int = 0,
        phase: str = "train",
        dataset: str = "",
        sample: Sequence[int] | Sequence[str] | Tensor | None = None,
        micro: int | None = None,
        epoch: float | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        types: Bits = None,
        flags: Bits = None,
        weight: Tensor | None = None,
        loss: Tensor | float | None = None,
        shift: bool = True,  # noqa: FBT001, FBT002 (the contract's order)
    ) -> None:
        """Record one micro-batch. Returns at once; nothing here waits for a device or a disk.

        Args:
            logits: float, [B, T, V] or [N, V]; the tensor the loss saw.
            labels: integer, [B, T] or [N]; −100 is ignored.
            step: optimizer step as the trainer counts it.
            phase: "train", "eval", or any other name.
            dataset: name of the (evaluation) set.
            sample: ids or string keys, one a row [B] or (ids only) one a token [B, T]; without it a
                sample is recognised by its tokens, packed documents apart.
            micro: index of the micro-batch in its step; counted unless given.
            epoch: epoch, if known.
            input_ids, attention_mask, position_ids, weight: [B, T], like the labels.
            types: masks of token types, or their bits; flags: masks or bits of `Flag`.
            loss: the trainer's own loss of this micro-batch, kept beside.
            shift: True if labels are unshifted (row i predicts label i + 1), False if aligned.

        Raises:
            InputError: shapes, ids or names that do not fit; the batch is not recorded.
            WriterError: the background writer failed earlier.
        """
        if not self._is_due(step, phase):
            return
        batch = make_batch(
            logits,
            labels,
            self.spec,
            shift=shift,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            weight=weight,
            types=types,
            flags=flags,
        )
        given = self._given(sample, batch)
        plan = layout(batch, self.spec) if labels.numel() else None
        where = self._clock.place(phase, dataset, int(step), epoch, micro, self.session.rank)
        self._put(
            TokenJob(
                where=where,
                spec=self.spec,
                vocabulary=self._vocabulary,
                given=given,
                shape=(batch.labels.shape[0], batch.labels.shape[1]),
                reduced=self._reduced(batch, plan, phase),
                whole=self._copier.start(_whole(batch, plan, loss)),
                book=self._book,
                types_given=frozenset(self.spec.types.names if isinstance(types, Tensor) else types or ()),
            )
        )

    def start_pass(self, phase: str, dataset: str = "") -> None:
        """Say that the next `record` of this phase and dataset begins a new pass over the data.

        Needed only where the same step is evaluated twice in a row; a pass also begins by itself when
        another phase came in between or the given `micro` went back.
        """
        if self.enabled:
            self._clock.new_pass(phase, dataset)

    def scalars(self, step: int, values: Mapping[str, Any], phase: str = "train") -> None:
        """Keep what the trainer itself logged, one row a key."""
        if self._is_open():
            self._put(scalars_job(step, values, phase, time.time(), self.spec))

    def samples(self, frame: Any) -> None:
        """Keep metadata of samples: `sample` or `key`, and any of `source`, `group`, `length`, others.

        Args:
            frame: a polars, pandas or pyarrow table, or a dict of lists.
        """
        if self._is_open():
            self._put(SamplesJob(samples_table(frame, self.spec), self._book))

    def metrics(self, *, all_reduce: bool = False) -> dict[str, float]:
        """Token means since the last call, as a plain dict ready for a trainer's log.

        Args:
            all_reduce: sum over all ranks first; every rank must call it.
        """
        return self._live.read(all_reduce=all_reduce)

    def flush(self) -> None:
        """Block until everything recorded so far is in finished shards."""
        if self._is_open():
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and release the dump. Safe to call twice.

        Raises:
            WriterError: the background writer failed.
        """
        if self._closed or not self.enabled:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._writer.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "off" if not self.enabled else "closed" if self._closed else "open"
        return f"Recorder({str(self.path)!r}, V={self.spec.vocab_size}, k={self.spec.k}, {state})"

    def _is_open(self) -> bool:
        if self.enabled and self._closed:
            raise InputError(f"{self!r} is closed; make a new Recorder to append another session")
        return self.enabled

    def _is_due(self, step: int, phase: str) -> bool:
        return self._is_open() and (phase != "train" or step % self.session.every == 0)

    def _put(self, job: Job) -> None:
        self._writer.put(job)

    def _given(self, sample: Sequence[int] | Sequence[str] | Tensor | None, batch: Batch) -> Given:
        if sample is None:
            return Given(None, per_token=False, flat=batch.flat)
        per_token = sample_shape(sample, batch) == "token"
        if per_token and isinstance(sample, Tensor) and batch.shift:
            sample = torch.cat([sample[:, 1:], sample[:, -1:]], dim=1)
        host = sample.detach().cpu().numpy().copy() if isinstance(sample, Tensor) else list(sample)
        return Given(host, per_token=per_token, flat=batch.flat)

    def _reduced(self, batch: Batch, plan: Layout | None, phase: str) -> Pending:
        """Start the reduction of the rows to keep, and their copy to the host."""
        if plan is None:
            return Pending({"gold": torch.zeros(0, dtype=torch.long)})
        flat = batch.logits.reshape(-1, self.spec.vocab_size)
        rows, columns = _chosen(plan, flat.device)
        if rows is not None and len(rows) == 0:
            return Pending({"gold": torch.zeros(0, dtype=torch.long)})
        columns = {name: value.to(flat.device, non_blocking=True) for name, value in columns.items()}
        targets = Targets(columns["gold"], columns.get("left"), columns.get("right"))
        index = None if rows is None else rows.to(flat.device, non_blocking=True)
        columns |= reduce_logits(
            flat, index, targets, self._groups, lse_beta=self.spec.records_lse_beta(phase)
        )
        self._live.add(phase, columns)
        return self._copier.start(columns)


def _chosen(plan: Layout, device: torch.device) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Row numbers to reduce and their columns; all rows where choosing would mean waiting for a device."""
    columns = {"gold": plan.gold, **plan.columns}
    if plan.left is not None and plan.right is not None:
        columns |= {"left": plan.left, "right": plan.right}
    columns["row"] = torch.arange(len(plan.gold), device=plan.gold.device)
    if plan.keep.device.type != "cpu":
        return None, columns | {"keep": plan.keep}
    rows = plan.keep.nonzero().squeeze(1)
    return rows, {name: value[rows] for name, value in columns.items()}


def _whole(batch: Batch, plan: Layout | None, loss: Tensor | float | None) -> dict[str, Tensor]:
    """What naming samples and the `batches` row need of the whole batch, as private copies."""
    supervised = batch.labels[:, 1:] if batch.shift else batch.labels
    whole = {"n_supervised": (supervised != IGNORED).sum().reshape(1), "labels": batch.labels.clone()}
    if plan is not None:
        whole["doc"] = _document_of_tokens(batch, plan)
    if batch.input_ids is not None:
        whole["input_ids"] = batch.input_ids.clone()
    if batch.attention_mask is not None:
        whole["mask"] = batch.attention_mask != 0
    if loss is not None:
        whole["loss"] = torch.as_tensor(loss).detach().double().reshape(-1)[:1].clone()
    return whole


def _document_of_tokens(batch: Batch, plan: Layout) -> Tensor:
    """Document number of each token [B, T] (the layout's is per target)."""
    doc = plan.columns["doc"].view_as(batch.labels)
    return torch.cat([torch.zeros_like(doc[:, :1]), doc[:, :-1]], dim=1) if batch.shift else doc


@dataclass
class _PassClock:
    """Counts passes and micro-batches, so that every row has an identity."""

    _passes: Counter[tuple[str, str, int]] = field(default_factory=Counter[tuple[str, str, int]])
    _last: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict[tuple[str, str], tuple[int, int]])
    """(phase, dataset) to (step, micro) of its latest micro-batch."""
    _phase: str = ""
    _renewed: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def new_pass(self, phase: str, dataset: str) -> None:
        self._renewed.add((phase, dataset))

    def place(self, phase: str, dataset: str, step: int, epoch: float | None, micro: int | None, rank: int) -> Where:
        if phase != self._phase:
            self._renewed |= {key for key in self._last if key[0] == phase}
            self._phase = phase
        stream = (phase, dataset)
        last_step, last_micro = self._last.get(stream, (None, -1))
        same_step = step == last_step
        again = same_step and (stream in self._renewed or (micro is not None and micro < last_micro))
        self._renewed.discard(stream)
        key = (phase, dataset, step)
        if again or not same_step:
            self._passes[key] += 1
            last_micro = -1
        number = last_micro + 1 if micro is None else int(micro)
        self._last[stream] = (step, number)
        return Where(phase, dataset, self._passes[key] - 1, step, epoch, number, rank)


