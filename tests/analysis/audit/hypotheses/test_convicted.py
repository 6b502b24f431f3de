"""Every registered hypothesis is convicted by name, or told together with exactly those it equals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl
import pytest
from audit_conventions import PAIRS, series
from audit_oracles import KEYS, Key
from audit_run import EVERY, STEPS, make_run, record
from audit_tokens import Line, lines_of

import logitbox
from logitbox.analysis.audit.audit import audit_evidence
from logitbox.analysis.audit.hypotheses.entries import Hypothesis
from logitbox.analysis.audit.hypotheses.registry import HYPOTHESES
from logitbox.analysis.audit.result import KeyVerdict
from logitbox.analysis.audit.tallying import evidence_of
from logitbox.analysis.logs.frame import SCHEMA, Logged

LINE_STEPS = list(range(EVERY, STEPS + 1, EVERY))
VERDICT_OF = {"convention": "other convention", "bug": "bug"}


def printed(value: float) -> tuple[float, float]:
    """(value with six digits, half a unit of the last of them)."""
    text = f"{value:.5e}"
    return float(text), 0.5 * 10.0 ** (int(text.partition("e")[2]) - 5)


def tolerance(value: float, precision: float) -> float:
    """What rounding and float32 arithmetic may move a value."""
    return precision + 1e-6 + 2e-6 * abs(value)


def rows_of(run: int, key: str, values: list[float]) -> list[dict[str, object]]:
    """Rows of the frame of logs."""
    found: list[dict[str, object]] = []
    for row, (step, value) in enumerate(zip(LINE_STEPS, values, strict=True)):
        shown, precision = printed(value)
        found.append(
            {
                "run": run,
                "row": row,
                "step": step,
                "epoch": None,
                "phase": KEYS[key].phase if key in KEYS else "train",
                "key": key,
                "value": shown,
                "precision": precision,
            }
        )
    return found


@dataclass(frozen=True, eq=False)
class Case:
    """All cases, audited at once."""

    lines: dict[str, list[Line]]
    verdicts: dict[str, KeyVerdict]

    @cached_property
    def known(self) -> dict[tuple[str, str], list[float]]:
        """Series already computed."""
        return {}

    def series(self, hypothesis: str, name: str) -> list[float]:
        """What the key logs under a hypothesis."""
        if (hypothesis, name) not in self.known:
            key = KEYS[name]
            self.known[hypothesis, name] = series(hypothesis, self.lines[key.phase], key)
        return self.known[hypothesis, name]

    def equals(self, hypothesis: str, name: str, values: list[float]) -> bool:
        """Whether a hypothesis gives these values, too, as far as they are printed."""
        return all(
            abs(mine - printed(value)[0]) <= tolerance(*printed(value))
            for mine, value in zip(self.series(hypothesis, name), values, strict=True)
        )


def is_about(entry: Hypothesis, key: Key) -> bool:
    """Whether a hypothesis is about a key."""
    if "steps" in entry.applies and key.phase != "train":
        return False  # an evaluation is one step
    if "evaluation" in entry.applies and key.phase == "train":
        return False
    if "cut ranks" in entry.applies and key.phase not in ("train", "test"):
        return False  # of the others' last batches, samples of both ranks are left over
    if key.of_type and entry.population.startswith("."):
        return False  # whole sets of tokens take the place of all labelled ones
    if "types" in entry.needs and not key.of_type:
        return False
    of_value = not entry.values or key.value in entry.values
    return of_value and (not entry.transforms or key.transform in entry.transforms)


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    run = make_run()
    path: Path = tmp_path_factory.mktemp("audited") / "dump"
    record(run, path)
    lines = {phase: lines_of(run, phase) for phase in ("train", "eval", "test", "predict")}
    made = Case(lines, {})
    rows: list[dict[str, object]] = []
    names: dict[tuple[str, int], str] = {}
    for key in KEYS:
        # One run of the log for each hypothesis about the key, and the first for its definition.
        cases = ["definition", *(entry.id for entry in HYPOTHESES if entry.case == key)]
        cases += PAIRS if key == "loss" else ()
        for number, name in enumerate(cases):
            rows += rows_of(number, key, made.series(name, key))
            names[key, number] = name if number else f"definition of {key}"
    dump = logitbox.open(path)
    result = audit_evidence(Logged(pl.DataFrame(rows, schema=SCHEMA)), evidence_of(dump), dump)
    for one in result.keys:
        made.verdicts[names[one.key, one.run]] = one
    return made


@pytest.mark.parametrize("entry", HYPOTHESES, ids=lambda entry: entry.id)
def test_every_hypothesis_is_convicted(entry: Hypothesis, case: Case) -> None:
    found, values = case.verdicts[entry.id], case.series(entry.id, entry.case)
    assert not case.equals("definition", entry.case, values), "the made run cannot show it"
    same = {
        other.id
        for other in HYPOTHESES
        if is_about(other, KEYS[entry.case])
        and other.parameter == entry.parameter
        and (other is entry or case.equals(other.id, entry.case, values))
    }
    told = {*found.ties_with, *([found.hypothesis] if found.hypothesis else [])}
    assert told == same, found.about
    equal = [other for other in HYPOTHESES if other.id in same]
    # Forms of one thing, of one kind, need not be told apart.
    is_one = bool(set[str].intersection(*(set(other.catalogue) for other in equal)))
    is_one &= len({other.kind for other in equal}) == 1
    assert found.verdict == (VERDICT_OF[entry.kind] if is_one else "cannot tell")


@pytest.mark.parametrize("name", PAIRS)
def test_two_at_once_are_told(name: str, case: Case) -> None:
    found = case.verdicts[name]
    assert found.hypothesis == name, found.about
    assert found.ties_with == ()
    assert found.verdict == "other convention"


@pytest.mark.parametrize("name", KEYS)
def test_the_definition_agrees(name: str, case: Case) -> None:
    found = case.verdicts[f"definition of {name}"]
    assert found.verdict == "agrees", found.about
    assert found.hypothesis == "definition"
    assert found.max_error is not None
    assert found.tolerance is not None
    assert found.max_error <= found.tolerance
