"""`Recorder`: what a training or evaluation loop talks to."""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from logitbox.dumps.checks import optional_whole, whole_number
from logitbox.dumps.classifier import Classifier
from logitbox.dumps.definitions.values import StepReduction
from logitbox.dumps.hostbatch import SampleIds, read_sample, whole_batch
from logitbox.dumps.intake import Intake
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.manifest import Session
from logitbox.dumps.naming import NamingTask
from logitbox.dumps.passes import Moment, PassClock
from logitbox.dumps.positions import layout, make_batch
from logitbox.dumps.reduce import GroupIndex, plain_arithmetic
from logitbox.dumps.schemes.answers import Answers
from logitbox.dumps.schemes.scheme import Scheme
from logitbox.dumps.session import Place, find_place, holds_vocabulary, open_session
from logitbox.dumps.spec import LseBeta, Scope, TokenTypes, build_spec
from logitbox.dumps.transfer import HostCopier
from logitbox.dumps.usertables import SampleColumns, SamplesJob, scalars_job, vocab_job
from logitbox.dumps.vocabulary import Tokenizer, build_vocabulary
from logitbox.dumps.writer import OnFull, Writer, WriterOptions
from logitbox.errors import InputError

Bits = Tensor | Mapping[str, Tensor] | None
Types = Scheme | TokenTypes | Sequence[str | Scheme | TokenTypes] | None


class Recorder:
    """Records every predicted token of a run into a dump.

    Args:
        path: folder of the dump; created, or appended to as a new session.
        vocab: a tokenizer, the token strings, or the vocabulary size.
        k: how many of the best tokens to keep per position; default 32, clamped to the vocabulary.
        groups: name to token ids, for the probability mass inside them.
        ordered: group name to options (see `OrderedSpec`), for groups whose ids are ordered bins.
        types: names of token types, whose masks `record(types=…)` then takes; or schemes, that label the tokens
            themselves; or both in one list.
        every: record training steps that are multiples of this; other phases are always recorded.
        scope: "supervised" positions, or "all" (needs `input_ids`).
        probes: also score each row's logits against the neighbouring labels (evidence for shift bugs).
        lse_beta: "eval" (all phases but train), "always" or "never".
        resume_from: hide training rows of earlier sessions from this step on (training was set back).
        enabled: False makes every call do nothing.
        vocab_size: the logits' last dimension, where embeddings are padded beyond the tokenizer.
        accumulation: micro-batches per optimizer step, if the trainer has a fixed number; only noted.
        length_unit: unit of the `length` column of `samples`, such as "s"; only noted.
        answers: name to token ids of the answers of a decision, or names of groups that are; by default accept and
            reject, where there are such groups. They bring the type `decision`; without a scheme or mask for it, the
            last answer token of each sample is its slot.
        detailed: switches of seed 001's metrics (see `DetailedSpec`), or False for none of them. Given at all, or
            where reasoning or tool_call is a type, what they need is recorded exactly.
        rank, world, session: from torch.distributed where it is initialised; else 0, 1 and a new id.
        on_full: what to do when the writer is behind: "wait", or "drop" the micro-batch and count it.
        queue_size, shard_rows, flush_seconds: most micro-batches waiting, rows a shard, time between shards.

    Raises:
        InputError, NotADumpError, LockedError: a bad argument, another folder's contents, a live Recorder.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        vocab: int | Sequence[str | bytes] | Tokenizer,
        k: int | None = None,
        groups: Mapping[str, Sequence[int]] | None = None,
        ordered: Mapping[str, Mapping[str, Any]] | None = None,
        types: Types = None,
        every: int = 1,
        scope: Scope = "supervised",
        probes: bool = False,
        lse_beta: LseBeta | bool = "eval",
        resume_from: int | None = None,
        enabled: bool = True,
        *,
        vocab_size: int | None = None,
        accumulation: int | None = None,
        length_unit: str | None = None,
        rank: int | None = None,
        world: int | None = None,
        session: str | None = None,
        answers: Mapping[str, Sequence[int]] | Sequence[str] | Answers | None = None,
        detailed: bool | Mapping[str, Any] | None = None,
        on_full: OnFull = "wait",
        queue_size: int = 64,
        shard_rows: int = 65_536,
        flush_seconds: float = 60.0,
    ) -> None:
        self.path = Path(path)
        self.enabled = enabled
        self._closed = False
        options = WriterOptions(shard_rows, flush_seconds, queue_size, on_full)
        self._vocabulary = build_vocabulary(vocab, optional_whole("vocab_size", vocab_size, 1))
        self._classifier = Classifier.of(types, detailed)
        self.spec = build_spec(
            self._vocabulary.size,
            optional_whole("k", k, 1),
            groups,
            ordered,
            self._classifier.types,
            probes=probes,
            lse_beta=lse_beta,
            scope=scope,
            detailed=detailed,
            answers=answers.groups if isinstance(answers, Answers) else answers,
        )
        self._live = LiveMetrics(GroupIndex(self.spec))
        if not enabled:
            return
        draft = Session(
            session="",
            rank=0,
            world=1,
            spec=self.spec,
            every=whole_number("every", every, 1),
            accumulation=optional_whole("accumulation", accumulation, 1),
            resume_from=optional_whole("resume_from", resume_from, 0),
            length_unit=length_unit,
            **self._vocabulary.noted(),
        )
        self._open(find_place(rank, world, session), draft, options)

    def _open(self, place: Place, draft: Session, options: WriterOptions) -> None:
        self.session, self._lock = open_session(self.path, place, draft)
        try:
            told = holds_vocabulary(self.path, self.session.vocabulary_fingerprint)
            self._writer = Writer(self.path, self.session.owner, options)
        except BaseException:
            self._lock.release()
            raise
        self._intake = Intake(self.spec, self._vocabulary, self._writer, self._live)
        self._sample_columns = SampleColumns(self.spec)
        self._copier = HostCopier()
        self._clock = PassClock(self.session.rank)
        atexit.register(self.close)  # a script that forgets close() loses nothing
        if self._vocabulary.tokens and self.session.rank == 0 and not told:
            self._writer.put(vocab_job(self._vocabulary, self.spec))

    def record(
        self,
        logits: Tensor,
        labels: Tensor,
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
            input_ids: token ids, in the shape of the labels, like all that follow.
            attention_mask: 0 where there is padding.
            position_ids: place of each token in its document; starting anew tells packed documents apart.
            types: masks of token types by name, which go before what a scheme says; or their bits, which say all:
                no scheme is asked then, and no decision slot looked for.
            flags: masks by name (`image`, `duplicate`, …), or bits of `Flag`.
            weight: loss weight of each token.
            loss: the trainer's own loss of this micro-batch, kept beside.
            shift: True if row i predicts token i + 1 (labels, input_ids and the rest as the model takes them),
                False if everything is aligned with the rows already.

        Raises:
            InputError: shapes, ids or names that do not fit, a phase in which a key would mean two things; the batch
                is not recorded.
            WriterError: the background writer failed earlier.
        """
        if not self._is_open():
            return
        self._writer.check()
        moment = Moment.read(phase, dataset, step, epoch, micro)
        if moment.phase == "train" and moment.step % self.session.every:
            return
        device = logits.device if isinstance(logits, Tensor) else torch.device("cpu")
        self._live.check_phase(moment.phase)
        typed = self._classifier.complete(
            types, labels, input_ids, attention_mask=attention_mask, position_ids=position_ids
        )
        with plain_arithmetic(device):
            batch = make_batch(
                logits,
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
            where = self._clock.place(moment)
            naming = NamingTask(given.kind, given.keys, batch.shift, batch.flat, position_ids is not None)
            self._intake.take(batch, plan, whole, where, naming, typed)

    def start_pass(self, phase: str, dataset: str = "") -> None:
        """Say that the next `record` of this phase and dataset begins a new pass over the data.

        Needed only where the same step is evaluated twice in a row; a pass also begins by itself when the
        step changed, a training batch came in between (for evaluations) or the given `micro` went back.
        """
        if self.enabled:
            self._clock.new_pass(phase, dataset)

    def scalars(self, step: int, values: Mapping[str, Any], phase: str = "train") -> None:
        """Keep what the trainer itself logged, one row a key. Nothing waits for values that are tensors on a device."""
        if self._is_open():
            self._writer.put(scalars_job(step, values, phase, time.time(), self.spec, self._copier))

    def samples(self, frame: Any) -> None:
        """Keep metadata of samples: `sample` or `key`, and any of `dataset`, `source`, `group`, `length`, others.

        Token rows join them on (sample, dataset). Without a column `dataset` the samples belong to dataset "".

        Args:
            frame: a polars, pandas or pyarrow table, or a dict of lists.
        """
        if self._is_open():
            self._writer.put(SamplesJob(self._sample_columns.table(frame), self._intake.book))

    def metrics(
        self,
        prefix: str | None = None,
        *,
        phase: str | None = None,
        reduction: StepReduction = "token_mean",
        all_reduce: bool = False,
    ) -> dict[str, float | None]:
        """Every metric of what was recorded since the last call, as a plain dict ready for a trainer's log.

        Keys and values are those of `logitbox.metrics(dump)`; `docs/metrics.md` lists them. This is the one call
        that waits for the device.

        Args:
            prefix: put before every key; by default that of the key's seed and phase (nothing or `train_` for
                train, `eval_` or `val_` for eval). It also chooses the phase it names (`eval_`, `eval/`, `eval_x_` are of
                eval), so that the others run on, also where that one has nothing to read.
            phase: the one phase to read; by default all, or the one of `prefix`; where that names none, the only one.
            reduction: "token_mean", Σ over tokens / tokens; or "step_mean", the mean over logging steps of each
                step's value.
            all_reduce: sum over all ranks first; every rank must call it.

        Returns:
            Key to value. None where it is over no tokens; `null_reasons` then says why.

        Raises:
            InputError: an unknown reduction, or a prefix that could be of several phases.
        """
        if not self.enabled:
            return {}
        return self._live.read(prefix, phase=phase, reduction=reduction, all_reduce=all_reduce)

    @property
    def null_reasons(self) -> dict[str, str]:
        """Why values of the last `metrics()` are None, by key."""
        return dict(self._live.reasons)

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
        try:
            self._writer.close()
        finally:
            if (
                self._writer.has_stopped
            ):  # else Ctrl-C ended the wait: another close(), at the latest at exit, goes on
                self._closed = True
                atexit.unregister(self.close)
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
