"""`Recorder`: what a training or evaluation loop talks to."""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from logitbox.dumps.checks import optional_whole, whole_number
from logitbox.dumps.circumstances import aside
from logitbox.dumps.classifier import Classifier
from logitbox.dumps.hostbatch import SampleIds
from logitbox.dumps.intake import Intake
from logitbox.dumps.live import LiveMetrics
from logitbox.dumps.manifest import Session
from logitbox.dumps.passes import PassClock
from logitbox.dumps.recording import Recording
from logitbox.dumps.reduce import GroupIndex
from logitbox.dumps.reduce.hidden import HiddenRows
from logitbox.dumps.reduce.sharded import Shards, VocabShard
from logitbox.dumps.schemes.answers import Answers
from logitbox.dumps.schemes.scheme import Scheme
from logitbox.dumps.session import Place, find_place, holds_vocabulary, open_session
from logitbox.dumps.spec import LseBeta, Scope, TokenTypes, build_spec
from logitbox.dumps.told import Bits, Told
from logitbox.dumps.transfer import HostCopier
from logitbox.dumps.usertables import SampleColumns, vocab_job
from logitbox.dumps.vocabulary import Tokenizer, build_vocabulary
from logitbox.dumps.writer import OnFull, Writer, WriterOptions

Types = Scheme | TokenTypes | Sequence[str | Scheme | TokenTypes] | None


class Recorder(Recording):
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
        min_prob: leave ids of a lower probability out of the lists of the best tokens (the best one always stays): the
            surer the model, the smaller the dump. What is left out is part of `tail_mass`.
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
        min_prob: float | None = None,
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
            min_prob=min_prob,
        )
        self._live = LiveMetrics(GroupIndex(self.spec))
        self._shards = Shards(self.spec)
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
        self._intake = Intake(
            self.spec,
            self._vocabulary,
            self._classifier,
            self._writer,
            self._live,
            PassClock(self.session.rank),
            self.session.every,
        )
        self._sample_columns = SampleColumns(self.spec)
        self._copier = HostCopier()
        atexit.register(self.close)  # a script that forgets close() loses nothing
        if self._vocabulary.tokens and self.session.rank == 0 and not told:
            self._writer.put(vocab_job(self._vocabulary, self.spec))

    @aside
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
        vocab_parallel: VocabShard | None = None,
    ) -> None:
        """Record one micro-batch. Returns at once; nothing here waits for a device or a disk.

        Args:
            logits: float, [B, T, V] or [N, V]; the tensor the loss saw. A DTensor may be cut along the vocabulary.
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
            vocab_parallel: where the logits are one shard of the vocabulary, which one; every process of its group
                must call then, with the same of everything else, and the first of them writes.

        Raises:
            InputError: shapes, ids or names that do not fit, a phase in which a key would mean two things; the batch
                is not recorded.
            WriterError: the background writer failed earlier.
        """
        if self._is_open():
            self._intake.record(
                lambda: self._shards.rows(logits, vocab_parallel),
                labels,
                step=step,
                phase=phase,
                dataset=dataset,
                sample=sample,
                micro=micro,
                epoch=epoch,
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                types=types,
                flags=flags,
                weight=weight,
                loss=loss,
                shift=shift,
            )

    @aside
    def record_hidden(
        self,
        hidden: Tensor,
        lm_head_weight: Tensor,
        labels: Tensor,
        *,
        bias: Tensor | None = None,
        logit_scale: float | Tensor | None = None,
        softcap: float | None = None,
        **told: Unpack[Told],
    ) -> None:
        """Record one micro-batch whose logits never exist, since the loss is fused with `lm_head`.

        The recorded rows are projected again, chunk by chunk, in the dtype that the model would use: that of the
        weight, or of autocast where this is called under it. Labels on the CPU tell which rows those are; of
        labels on a device that would mean waiting, and all rows are projected.

        Args:
            hidden: float, [B, T, H] or [N, H]: what goes into `lm_head`, after the last norm.
            lm_head_weight: float, [V, H], `lm_head.weight`.
            labels: integer, [B, T] or [N]; −100 is ignored.
            bias: [V], `lm_head.bias`, if there is one.
            logit_scale: factor of the logits, if the model has one (Cohere; Granite divides: 1 / logits_scaling).
            softcap: c of c·tanh(logits / c), if the model has one (Gemma 2: final_logit_softcapping).
            **told: the other arguments of `record`.

        Raises:
            InputError, WriterError: as `record`.
        """
        if self._is_open():
            self._intake.record(
                lambda: HiddenRows.read(hidden, lm_head_weight, bias, logit_scale, softcap), labels, **told
            )
