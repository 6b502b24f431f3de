"""Several schemes at once, and one that fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from schemes_oracle import Batch, batches
from torch import Tensor

from logitbox.dumps.schemes.agent import AgentText
from logitbox.dumps.schemes.combine import combine
from logitbox.dumps.schemes.decision import DecisionSlot
from logitbox.dumps.schemes.regex import RegexTypes
from logitbox.dumps.schemes.scheme import Scheme
from logitbox.dumps.spec import TokenTypes
from logitbox.errors import InputError

IDS = torch.tensor([[0, 1, 2]])
VOCAB = ["a", "b", "1"]


@dataclass
class Made:
    """A scheme of somebody else's, whose masks come from a function."""

    make: Callable[[], Any]
    types: TokenTypes = TokenTypes(("mine",))  # noqa: RUF009 (frozen)

    def masks(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        return self.make()


def failing() -> dict[str, Tensor]:
    raise ZeroDivisionError("no such luck")


@settings(max_examples=50, deadline=None)
@given(batches())
def test_together_as_alone(batch: Batch) -> None:
    parts: list[Scheme] = [
        RegexTypes(batch.vocab, {"wide": "[^\x00-\x7f]"}),
        AgentText(batch.vocab),
        DecisionSlot(batch.vocab, {"one": [0], "two": [1]}, after=None),
    ]
    masks = combine(["before", *parts, TokenTypes(("after",))]).masks(**batch.given())
    assert list(masks) == [
        "wide",
        "reasoning",
        "tool_call",
        "decision",
    ]  # named types are the caller's to give
    for part in parts:
        for name, mask in part.masks(**batch.given()).items():
            assert masks[name].equal(mask)


def test_names_in_order() -> None:
    agent, regex = AgentText(VOCAB), RegexTypes(VOCAB, {"digit": r"\d"}, rest="other")
    assert combine(["x", regex, TokenTypes(("y", "z")), agent]).types == TokenTypes(
        ("x", "digit", "other", "y", "z", "reasoning", "tool_call")
    )
    assert combine([agent]).types == TokenTypes(("reasoning", "tool_call"), partition=True)
    assert combine([combine([agent]), "x"]).types.names == ("reasoning", "tool_call", "x")
    assert not combine([agent, "x"]).types.partition
    assert isinstance(combine([agent]), Scheme)


def test_a_scheme_that_fails_is_told_once_and_others_go_on() -> None:
    combined = combine([Made(failing), RegexTypes(VOCAB, {"digit": r"\d"})])
    with pytest.warns(RuntimeWarning) as told:
        batches_of_masks = [combined.masks(IDS) for _ in range(3)]
    for masks in batches_of_masks:
        assert list(masks) == ["digit"]
        assert masks["digit"].tolist() == [[False, False, True]]
    assert len(told) == 1
    assert str(told[0].message) == (
        "token types mine: Made failed with ZeroDivisionError: no such luck. They stay unknown wherever it fails, "
        "all other metrics go on; this is told once"
    )
    assert told[0].filename == __file__  # the line that asked for masks


def test_each_scheme_is_told_once() -> None:
    other = Made(failing, TokenTypes(("other",)))
    first, second = combine([Made(failing), other]), combine([other])  # each combination tells for itself
    with pytest.warns(RuntimeWarning) as told:
        assert [combined.masks(IDS) for combined in (first, first, second, first)] == [{}] * 4
    assert [str(warning.message)[:17] for warning in told] == [
        "token types mine:", "token types other", "token types other",
    ]  # fmt: skip


def test_a_scheme_that_fails_at_times() -> None:
    results = iter([None, {"mine": IDS > 0}, None])
    combined = combine([Made(results.__next__)])
    with pytest.warns(RuntimeWarning, match="mine") as told:
        masks = [combined.masks(IDS) for _ in range(3)]
    assert [list(names) for names in masks] == [[], ["mine"], []]
    assert masks[1]["mine"].tolist() == [[False, True, True]]
    assert len(told) == 1


def test_a_mistake_of_all_does_not_stop_a_training() -> None:
    combined = combine([AgentText(VOCAB)])
    with pytest.warns(
        RuntimeWarning, match=r"AgentText failed with InputError: input_ids is on meta.*collator"
    ):
        assert combined.masks(IDS.to("meta")) == {}


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (None, "returned a NoneType; it must be a dict"),
        ({"other": IDS > 0}, r"returned 'other'; its types are \['mine'\]"),
        ({"mine": IDS}, "the mask of 'mine' is torch.int64 on cpu; it must be a bool tensor"),
        ({"mine": [True]}, "the mask of 'mine' is list"),
        ({"mine": (IDS > 0).to("meta")}, "the mask of 'mine' is torch.bool on meta"),
        ({"mine": IDS[0] > 0}, r"the mask of 'mine' has shape \[3\]; it must be \[1, 3\]"),
    ],
)
def test_masks_that_would_break_the_recording_are_left_out(made: Any, why: str) -> None:
    combined = combine([Made(lambda: made), AgentText(VOCAB)])
    with pytest.warns(RuntimeWarning, match=why):
        assert list(combined.masks(IDS)) == ["reasoning", "tool_call"]


def test_a_scheme_may_leave_out_a_type() -> None:
    combined = combine([Made(dict, TokenTypes(("mine", "other")))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert combined.masks(IDS) == {}


def test_what_stops_a_program_is_not_caught() -> None:
    def stop() -> dict[str, Tensor]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        combine([Made(stop)]).masks(IDS)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([], r"parts is \[\]; give a list"),
        ("coord", "parts is 'coord'; give a list"),
        (["a", "a"], "repeat a name"),
        ([AgentText(VOCAB), "tool_call"], "repeat a name"),
        (["a", 3], "3 is no scheme; give the name of a type, or an object with `types` and `masks"),
        ([AgentText], "is no scheme"),
        (["a b"], "token type name 'a b'"),
        ([f"t{i}" for i in range(33)], "at most 32"),
    ],
)
def test_wrong_parts(parts: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        combine(parts)
