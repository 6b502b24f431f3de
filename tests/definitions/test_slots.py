"""Which tokens are decision slots where nobody says so: the last answer token of each sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import logitbox as lb
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.schemes.decision import DecisionSlot

VOCAB = [f"t{i}" for i in range(8)]
ANSWERS = {"yes": (4, 5), "no": (6,)}
Slots = Callable[..., list[int]]


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    """Record one batch; the flat places b·T + t, of [B, T] or [N], of its slots."""

    def make(labels: list[Any], declared: Any = None, **given: Any) -> list[int]:
        ids = torch.tensor(labels)
        # The confidence in a token tells which one it was.
        logits = torch.zeros(*ids.shape, len(VOCAB), dtype=torch.float64)
        logits[..., 7] = torch.arange(ids.numel()).view(ids.shape) * 0.25
        path = tmp_path / f"dump{len(list(tmp_path.iterdir()))}"
        with Recorder(path, VOCAB, types=declared, answers=ANSWERS) as rec:
            rec.record(logits, ids, shift=False, **given)
            n = rec.metrics()["decision_slots"]
            bit = 1 << rec.spec.types.names.index("decision")
        rows = lb.open(path).tokens.collect()
        lse = (logits.logsumexp(-1)).flatten()
        found = [
            int((lse - row["lse"]).abs().argmin()) for row in rows.iter_rows(named=True) if row["types"] & bit
        ]
        assert n == len(found)
        return sorted(found)

    return make


def test_samples_packed_into_a_row_have_a_slot_each(slots: Slots) -> None:
    labels = [[4, 1, 6, 2, 5, 1, 4, 3], [6, 5, 1, 1, 1, 1, 1, 1]]
    sample = [[3, 3, 3, 3, 1, 1, 1, 1], [9, 1, 9, 9, 9, 9, 9, 9]]
    assert slots(labels, sample=sample) == [2, 6, 8, 9]  # ids may come in any order, and return
    assert slots(labels) == [6, 9]
    assert slots(labels, sample=[7, 7]) == [6, 9]


def test_sample_ids_tell_more_than_positions(slots: Slots) -> None:
    """A document of several turns is one sample, if the caller says so."""
    labels, position = [[4, 1, 6, 2, 5, 1]], torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert slots(labels, position_ids=position) == [2, 4]
    assert slots(labels, position_ids=position, sample=[[5] * 6]) == [4]


def test_sample_ids_go_with_the_target(tmp_path: Path) -> None:
    """Shifted, the row before a token predicts it, whose sample it may not be of."""
    ids = torch.tensor([[1, 4, 6, 5, 1]])
    with Recorder(tmp_path / "dump", VOCAB, answers=ANSWERS) as rec:
        rec.record(torch.zeros(1, 5, 8), ids, sample=[[1, 1, 2, 2, 2]])
        assert rec.metrics()["decision_slots"] == 2
    rows = lb.open(tmp_path / "dump").tokens.collect()
    assert [row["gold"] for row in rows.iter_rows(named=True) if row["types"]] == [4, 5]


@pytest.mark.parametrize("named", [False, True])
def test_flat_rows_of_a_sample_have_one_slot(slots: Slots, named: bool) -> None:
    labels, sample = [4, 6, 1, 5, 1, 6, 2], [0, 0, 0, 1, 1, 1, 1]
    given = ["b" if i else "a" for i in sample] if named else sample
    assert slots(labels, sample=given) == [1, 5]


def test_flat_rows_are_samples_of_their_own(slots: Slots) -> None:
    assert slots([4, 6, 1, 5, 1]) == [0, 1, 3]


class Broken:
    """A scheme for the slots that fails, at every call or at the second."""

    types = lb.TokenTypes(("decision",))

    def __init__(self, works: int) -> None:
        self.works = works

    def masks(self, ids: torch.Tensor, *_: object, **__: object) -> dict[str, torch.Tensor]:
        self.works -= 1
        if self.works < 0:
            raise ValueError("no luck")
        return {"decision": ids == 6}


def test_where_a_scheme_fails_there_are_no_slots(slots: Slots, tmp_path: Path) -> None:
    """The last answer is another thing than what the scheme was asked for; it must not take its place."""
    labels = [[4, 6, 1, 5, 1, 1]]
    assert slots(labels, Broken(1)) == [1]
    with pytest.warns(RuntimeWarning, match="Broken failed"):
        assert slots(labels, Broken(0)) == []


def test_where_a_scheme_does_not_apply_there_are_no_slots(slots: Slots) -> None:
    scheme = DecisionSlot(VOCAB, ANSWERS, after=None)
    with pytest.warns(RuntimeWarning, match=r"decision: .*logits are \[N, V\]"):
        assert slots([4, 6, 1], scheme) == []
    # A mask of the caller's own is always taken, and nothing is left to tell.
    assert slots([4, 6, 1], scheme, types={"decision": torch.tensor([False, True, False])}) == [1]


def test_types_given_as_bits_are_all_that_there_is(slots: Slots) -> None:
    """Bits say everything: no scheme is asked, and no slot is looked for."""
    assert slots([[4, 6, 5]], Broken(0), types=torch.tensor([[0, 1, 0]])) == [1]
