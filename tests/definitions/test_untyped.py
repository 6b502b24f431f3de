"""Tokens whose types no scheme could tell are no part of a type's share: unknown is not "none"."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import logitbox as lb
from logitbox.dumps.flags import Flag
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.schemes.agent import AgentText
from logitbox.dumps.schemes.combine import combine
from logitbox.dumps.spec import TokenTypes

VOCAB = ["a", "b", "<function=f>", "</function>", "c"]
TEXT = [[0, 2, 1, 3, 4, 1, 0, 4]]  # without the first: 3 of a call, then 4 of reasoning
UNKNOWN = "no supervised tokens whose types are known"


class AtTimes(AgentText):
    """Fails at the calls that are told."""

    def __init__(self, *fails: int) -> None:
        super().__init__(VOCAB)
        self.fails, self.calls = fails, 0

    def masks(self, *given: Any, **named: Any) -> dict[str, torch.Tensor]:
        self.calls += 1
        if self.calls - 1 in self.fails:
            raise ValueError("no luck")
        return super().masks(*given, **named)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def recorded(path: Path, *batches: Any, **options: Any) -> dict[str, tuple[float | None, str | None]]:
    """Key to (value, reason), live and from the dump; batches are texts, or all arguments of `record`."""
    with Recorder(path, VOCAB, **options) as rec:
        for step, batch in enumerate(batches):
            given = batch if isinstance(batch, dict) else {"labels": torch.tensor(batch)}
            rec.record(torch.zeros(*given["labels"].shape, len(VOCAB)), **given, step=step)
        live, reasons = rec.metrics(), rec.null_reasons
    frame = lb.metrics(lb.open(path)).frame
    dump = {row["key"]: (row["value"], row["reason"]) for row in frame.iter_rows(named=True)}
    assert {key: (value, reasons.get(key)) for key, value in live.items()} == {
        key: (None if value is None else pytest.approx(value, rel=1e-12), reason)
        for key, (value, reason) in dump.items()
    }
    return dump


def shares(found: dict[str, tuple[float | None, str | None]]) -> list[float | None]:
    return [found[f"{name}_token_frac"][0] for name in ("reasoning", "tool_call")]


def test_a_scheme_that_failed_at_some_steps(tmp_path: Path) -> None:
    found = recorded(tmp_path / "dump", TEXT, TEXT, types=AtTimes(1))
    assert shares(found) == [pytest.approx(4 / 7), pytest.approx(3 / 7)]
    assert found["n_tokens"] == (14.0, None)
    table = lb.metrics(lb.open(tmp_path / "dump"))
    assert table.filter(key="tool_call_token_frac")["n"].item() == 7
    flags = lb.open(tmp_path / "dump").tokens.collect()
    untyped = [bool(row["flags"] & Flag.UNTYPED) for row in flags.sort("step").iter_rows(named=True)]
    assert untyped == [False] * 7 + [True] * 7


def test_the_line_that_recorded_is_told(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="They stay unknown wherever it fails") as told:
        recorded(tmp_path / "dump", TEXT, TEXT, types=AtTimes(0, 1))
    assert [warning.filename for warning in told] == [__file__]


def test_a_scheme_that_failed_everywhere(tmp_path: Path) -> None:
    found = recorded(tmp_path / "dump", TEXT, types=AtTimes(0))
    assert found["reasoning_token_frac"] == found["tool_call_token_frac"] == (None, UNKNOWN)
    assert found["reasoning_token_acc"][0] is None


@pytest.mark.parametrize("wrapped", ["alone", "list", "combined", "twice"])
def test_a_scheme_that_is_switched_off(tmp_path: Path, wrapped: str) -> None:
    agent: Any = AtTimes()
    types: Any = {
        "alone": agent,
        "list": [agent, "image"],
        "combined": combine([agent, "image"]),
        "twice": [combine([combine([agent])]), "image"],
    }[wrapped]
    found = recorded(tmp_path / "dump", TEXT, types=types, detailed={"enable_token_classification": False})
    assert agent.calls == 0
    assert found["reasoning_token_frac"] == found["tool_call_token_frac"] == (None, UNKNOWN)


def test_flat_logits(tmp_path: Path) -> None:
    """A scheme reads text; rows of [N, V] are none. It is told once."""
    flat = {"labels": torch.tensor(TEXT[0])}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = recorded(tmp_path / "dump", flat, flat, types=[AtTimes(), "image"])
    assert shares(found) == [None, None]
    assert found["reasoning_token_frac"][1] == UNKNOWN
    assert len(told) == 1
    assert str(told[0].message) == (
        "token types reasoning, tool_call: a scheme reads rows of tokens, but logits are [N, V], so their types stay "
        "unknown; give logits [B, T, V], or masks as types=. This is told once"
    )
    assert told[0].filename == __file__  # the line that recorded


def test_masks_of_the_callers_own_are_known(tmp_path: Path) -> None:
    call = torch.tensor([[False, True, False, False, False, False, False, True]])
    masks = {"reasoning": ~call, "tool_call": call}
    batch = {"labels": torch.tensor(TEXT), "types": masks}
    assert shares(recorded(tmp_path / "all", batch, types=AtTimes(0))) == [
        pytest.approx(5 / 7), pytest.approx(2 / 7),
    ]  # fmt: skip
    batch = batch | {"types": {"tool_call": call}}
    assert shares(recorded(tmp_path / "one", batch, types=AtTimes(0))) == [None, None]
    bits = batch | {"types": torch.tensor([[0, 2, 2, 1, 1, 1, 1, 1]])}
    assert shares(recorded(tmp_path / "bits", bits, types=AtTimes(0))) == [
        pytest.approx(5 / 7), pytest.approx(2 / 7),
    ]  # fmt: skip


def test_untyped_rows_are_in_no_share_though_another_types_mask_has_them(tmp_path: Path) -> None:
    """Numerator and denominator are over the same rows: no share is above 1."""
    image = torch.ones(1, 8, dtype=torch.bool)
    batch = {"labels": torch.tensor(TEXT), "types": {"image": image}}
    none = {"labels": torch.tensor(TEXT)}
    found = recorded(tmp_path / "dump", batch, none, batch, types=[AtTimes(2), "image"])
    assert found["image_token_frac"] == (0.5, None)


def test_a_scheme_may_leave_out_a_type_that_no_token_has(tmp_path: Path) -> None:
    class Sparing:
        types = TokenTypes(("mine", "other"))

        def masks(self, ids: torch.Tensor, *_: object, **__: object) -> dict[str, torch.Tensor]:
            return {"mine": ids == 4}

    found = recorded(tmp_path / "dump", TEXT, types=Sparing())
    assert found["mine_token_frac"] == (pytest.approx(2 / 7), None)
    assert found["other_token_frac"] == (0.0, None)


def test_groups_are_told_by_gold_alone(tmp_path: Path) -> None:
    found = recorded(tmp_path / "dump", TEXT, types=AtTimes(0), groups={"coord": [4]})
    assert found["coord_token_frac"] == (pytest.approx(2 / 7), None)


def test_the_caller_may_say_so(tmp_path: Path) -> None:
    """Whose own scheme runs in the collator, and can fail there."""
    off = torch.tensor([[True] * 4 + [False] * 4])
    batch = {"labels": torch.tensor(TEXT), "types": {"x": ~off}, "flags": {"untyped": off}}
    assert recorded(tmp_path / "dump", batch, types=["x"])["x_token_frac"] == (1.0, None)
