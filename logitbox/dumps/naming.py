"""Gives each row of a micro-batch its sample, and its place in that sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from logitbox.dumps.passes import Where
from logitbox.dumps.samples import SampleBook, SampleRow, content_key, id_of_key
from logitbox.dumps.transfer import Array, as_int64

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class NamingTask:
    """How the samples of a micro-batch are to be found.

    Args:
        kind: what the caller gave: one id per "row", one per "token", or "none".
        keys: string keys of the rows, where the caller gave such.
        shift: whether the target of a row is the token after it.
        flat: the logits came as [N, V].
        has_positions: `position_ids` were given.
    """

    kind: str
    keys: tuple[str, ...] | None
    shift: bool
    flat: bool
    has_positions: bool


class SampleNamer:
    """Names the rows of one micro-batch and collects the samples met for the first time.

    Args:
        task: see `NamingTask`.
        where: where the micro-batch belongs.
        batch: host arrays of the whole batch, [B, T]: `labels`, `doc`, and `input_ids`, `mask`, `sample` if given.
        book: what is known of earlier samples.
    """

    def __init__(self, task: NamingTask, where: Where, batch: Mapping[str, Array], book: SampleBook) -> None:
        self._task, self._where, self._batch, self._book = task, where, batch, book
        self._shape = batch["labels"].shape
        self._width = int(self._shape[1])
        self.new_rows: list[SampleRow] = []

    def name(self, row: Ints, doc: Ints, pos: Ints) -> tuple[Ints, Ints]:
        """(sample id, pos in the sample) of each row.

        Args:
            row: flat index b·T + t of the logit row.
            doc: number of the target's packed document within b.
            pos: the target's place, as the layout knows it.
        """
        if self._task.kind == "none":
            return self._by_content(row, doc), pos
        ids = self._owner()
        target = self._target(row)
        return self._of_caller(ids, target), self._places(ids, row, pos)

    def _by_content(self, row: Ints, doc: Ints) -> Ints:
        places, first, inverse = np.unique(
            np.stack([row // self._width, doc]), axis=1, return_index=True, return_inverse=True
        )
        ids = np.empty(len(first), dtype=np.int64)
        for index in np.argsort(first):  # in recording order, so that "#2" is the later one
            line, document = int(places[0, index]), int(places[1, index])
            token_ids = self._content(line, document)
            key = self._place_key(line) if token_ids is None else content_key(token_ids)
            key = self._book.key_in_pass(key, self._where)
            ids[index] = id_of_key(key)
            if self._is_new(int(ids[index])):
                self._note(int(ids[index]), key, token_ids if "input_ids" in self._batch else None)
        return ids[inverse.reshape(-1)]

    def _content(self, line: int, document: int) -> Ints | None:
        """The ids that identify a sample: its tokens, or else its labels from the first to the last."""
        if self._task.flat:
            return None
        mine = self._batch["doc"][line] == document
        if "input_ids" in self._batch:
            return as_int64(self._batch["input_ids"][line][mine & self._present()[line]])
        labels = as_int64(self._batch["labels"][line][mine])
        supervised = np.flatnonzero(labels >= 0)
        return labels[supervised[0] : supervised[-1] + 1] if len(supervised) else labels

    def _place_key(self, line: int) -> str:
        """Where a bare position stood: within its pass for evaluations, within its step for training."""
        w = self._where
        step = f"/s{w.step}" if w.phase == "train" else ""
        return f"{w.phase}/{w.dataset}{step}/m{w.micro}/r{w.rank}/{line}"

    def _owner(self) -> Ints:
        """Sample id of each token, [B, T]."""
        sample = as_int64(self._batch["sample"])
        return sample if self._task.kind == "token" else np.repeat(sample[:, None], self._width, axis=1)

    def _target(self, row: Ints) -> Ints:
        """Flat index of each row's target token; the last row of a line, which has none, keeps to the last token."""
        return row + (row % self._width < self._width - 1) if self._task.shift else row

    def _of_caller(self, owner: Ints, target: Ints) -> Ints:
        ids = owner.reshape(-1)[target]
        for index in np.sort(np.unique(ids, return_index=True)[1]):
            sample, line = int(ids[index]), int(target[index]) // self._width
            key = str(sample) if self._task.keys is None else self._task.keys[line]
            if self._is_new(sample):
                self._note(sample, key, self._tokens_of(sample, owner, line))
        return ids

    def _tokens_of(self, sample: int, owner: Ints, line: int) -> Ints | None:
        if "input_ids" not in self._batch:
            return None
        mine = (owner == sample) & self._present()
        if self._task.kind == "row" and not self._task.flat:
            mine[:line] = mine[line + 1 :] = False
        return as_int64(self._batch["input_ids"][mine])

    def _places(self, owner: Ints, row: Ints, pos: Ints) -> Ints:
        """Place of each row's target among its sample's tokens, where the layout's place is another thing."""
        task, line = self._task, row // self._width
        if task.kind == "row" and not task.flat:
            packed = self._batch["doc"].max(axis=1) > 0  # the caller calls a whole packed line one sample
            lines = np.repeat(np.arange(self._shape[0])[:, None], self._width, axis=1)
            return np.where(packed[line], self._counted(lines, row), pos)
        return pos if task.has_positions else self._counted(owner, row)

    def _counted(self, owner: Ints, row: Ints) -> Ints:
        before = index_within(owner.reshape(-1), self._present().reshape(-1))
        target = self._target(row)
        return before[target] + (target == row if self._task.shift else 0)

    def _present(self) -> NDArray[np.bool_]:
        """Tokens that are no padding, [B, T]."""
        return self._batch["mask"] if "mask" in self._batch else np.ones(self._shape, dtype=np.bool_)

    def _is_new(self, sample: int) -> bool:
        return self._book.is_new(self._where.dataset, sample)

    def _note(self, sample: int, key: str, token_ids: Ints | None) -> None:
        key = self._book.key_of(self._where.dataset, sample, key)
        self.new_rows.append(SampleRow(sample, key, self._where.dataset, token_ids))


def index_within(owner: Ints, counted: NDArray[np.bool_]) -> Ints:
    """For each token, how many counted tokens of the same owner come before it. All of shape [n]."""
    order = np.argsort(owner, kind="stable")
    ones = counted[order].astype(np.int64)
    before = np.cumsum(ones) - ones
    is_first = np.r_[True, owner[order][1:] != owner[order][:-1]]
    start = np.maximum.accumulate(np.where(is_first, before, 0))
    result = np.empty(len(owner), dtype=np.int64)
    result[order] = before - start
    return result
