"""Clean runs whose logs or dumps are incomplete or oddly counted are not accused; what is left out is counted."""

from __future__ import annotations

import math
from dataclasses import replace

import polars as pl
import pytest
from engine_run import evidence_of, lines_of, log_of, make_tokens, mean_of, verdict_of, without

from logitbox.analysis.audit.against import usual_noise
from logitbox.analysis.audit.audit import audit_evidence
from logitbox.analysis.audit.evidence import Evidence
from logitbox.analysis.logs.frame import Logged

TOKENS = make_tokens(range(1, 41))
EVIDENCE = evidence_of(TOKENS)
THREE = lines_of(TOKENS, [10, 20, 30])
STEP = pl.col("step")


def from_0(evidence: Evidence) -> Evidence:
    """The same run with recorded steps that are counted from 0."""
    back = STEP - 1
    return Evidence(evidence.cells.with_columns(back), evidence.batches.with_columns(back), evidence.setup)


@pytest.mark.parametrize(
    ("steps", "start", "n_lines"),
    [
        ([1, 10, 20, 30], 0, 4),  # logging_first_step
        ([10, 20, 30, 32], 0, 4),  # a last short line
        ([10, 12], 0, 1),  # is the first about 2 steps or 10?
        ([20, 21], 0, 1),
        ([20, 30, 40], 10, 2),  # the end of a log
        ([20, 30, 40], 15, 2),  # resumed at 15
        ([20, 30, 40], 19, 2),
        ([7, 8, 9], 6, 3),  # every step
        ([3], 0, 1),
    ],
)
def test_first_lines_are_compared_only_where_their_window_is_known(steps, start, n_lines) -> None:
    found = verdict_of(log_of(lines_of(TOKENS, steps, start)), EVIDENCE)
    assert (found.verdict, found.hypothesis) == ("agrees", "definition")
    assert (found.n_lines, found.n_skipped) == (n_lines, len(steps) - n_lines)


def test_steps_between_lines_as_the_log_tells_them() -> None:
    found = verdict_of(log_of(lines_of(TOKENS, [10, 12]), meta={"logging_steps": 10}), EVIDENCE)
    assert (found.verdict, found.n_lines) == ("agrees", 2)


@pytest.mark.parametrize(
    ("missing", "n_lines"),
    [
        (STEP % 10 != 0, 0),  # every=10 under lines of ten steps each
        (STEP < 13, 1),
        (pl.col("rank") == 1, 0),
        ((pl.col("rank") == 1) & (STEP == 15), 2),
    ],
)
def test_what_was_not_recorded_wholly_is_not_compared(missing, n_lines) -> None:
    found = verdict_of(log_of(THREE), without(EVIDENCE, missing))
    assert found.verdict == ("agrees" if n_lines else "cannot tell")
    assert (found.n_lines, found.n_skipped) == (n_lines, 3 - n_lines)


def test_tokens_of_a_damaged_shard_are_missed() -> None:
    lost = (STEP == 15) & (pl.col("rank") == 0) & (pl.col("micro") == 1)
    found = verdict_of(log_of(THREE), without(EVIDENCE, lost, only_tokens=True))
    assert (found.verdict, found.n_lines, found.n_skipped) == ("agrees", 2, 1)


@pytest.mark.parametrize("steps", [[9, 19, 29], [0, 1, 2], [0, 10, 20]])
def test_lines_and_recorded_steps_that_both_begin_with_0(steps: list[int]) -> None:
    lines = [(step - 1, value) for step, value in lines_of(TOKENS, [step + 1 for step in steps])]
    found = verdict_of(log_of(lines), from_0(EVIDENCE))
    assert (found.verdict, found.n_lines, found.alignment) == ("agrees", 3, "")


def test_recorded_steps_that_begin_with_0() -> None:
    found = verdict_of(log_of(THREE), from_0(EVIDENCE))
    assert (found.verdict, found.n_lines) == ("agrees", 3)
    assert "counted from 0" in found.alignment


def test_a_null_value_does_not_lengthen_the_next_window() -> None:
    lines = lines_of(TOKENS, [5, 10, 15, 20, 25])
    del lines[2]
    known = verdict_of(log_of(lines, beside=[15]), EVIDENCE)
    told = verdict_of(log_of(lines, meta={"logging_steps": 5}), EVIDENCE)
    for found in (known, told):
        assert (found.verdict, found.n_lines, found.n_skipped) == ("agrees", 3, 1)


def test_a_key_that_is_logged_now_and_then_keeps_its_long_windows() -> None:
    found = verdict_of(log_of(THREE, beside=[5, 10, 15, 20, 25, 30]), EVIDENCE)
    assert (found.verdict, found.n_lines) == ("agrees", 3)


def test_two_different_values_at_one_step_are_no_value() -> None:
    lines = [*THREE[:2], (20, 9.0), THREE[2]]
    found = verdict_of(log_of(lines), EVIDENCE)
    assert (found.verdict, found.n_lines, found.n_skipped) == ("agrees", 2, 2)
    same = verdict_of(log_of([*THREE, THREE[2]]), EVIDENCE)
    assert (same.verdict, same.n_lines, same.n_skipped) == ("agrees", 3, 1)


def test_lines_without_a_step_among_others() -> None:
    lines: list[tuple[int | None, float]] = [*lines_of(TOKENS, [5, 10, 15, 20])]
    lines[1] = (None, lines[1][1])
    found = verdict_of(log_of(lines), EVIDENCE)
    assert (found.verdict, found.n_lines, found.n_skipped) == ("agrees", 2, 2)


def test_guessed_steps_are_told_and_accuse_nobody() -> None:
    lines = [(None, value) for _, value in lines_of(TOKENS, [10, 20, 30, 40])]
    right = verdict_of(log_of(lines), EVIDENCE)
    wrong = verdict_of(log_of(lines[:3]), EVIDENCE)  # 40 steps ÷ 3 lines: 13
    assert right.verdict == "agrees"
    assert wrong.verdict == "cannot tell"
    assert "no steps" in right.alignment
    assert "no steps" in wrong.about


def test_evaluations_that_cannot_be_matched_are_counted() -> None:
    evidence = evidence_of(make_tokens([10, 20]), "eval")
    found = verdict_of(log_of([(None, 2.0)] * 3, "eval_loss", phase="eval"), evidence, "eval_loss")
    assert (found.verdict, found.n_skipped) == ("cannot tell", 3)


def test_lines_of_what_was_not_recorded_are_counted() -> None:
    found = verdict_of(log_of([(10, 2.0), (20, 1.9)], "eval_loss", phase="eval"), EVIDENCE, "eval_loss")
    assert (found.verdict, found.n_lines, found.n_skipped) == ("cannot tell", 0, 2)
    assert "holds train" in found.about


def test_lines_with_nonfinite_logits_are_left_out_if_they_alone_are_not_explained() -> None:
    at_15 = (STEP == 15) & (pl.col("rank") == 0)
    cells = EVIDENCE.cells.with_columns(n_nonfinite=pl.when(at_15).then(2).otherwise(0))
    evidence = Evidence(cells, EVIDENCE.batches, EVIDENCE.setup)
    lines = [THREE[0], (20, THREE[1][1] + 0.137), THREE[2]]
    found = verdict_of(log_of(lines), evidence)
    assert (found.verdict, found.n_lines, found.n_skipped) == ("agrees", 2, 1)
    assert verdict_of(log_of(lines), EVIDENCE).verdict == "unexplained"


def test_an_exponential_is_as_far_off_as_its_exponent() -> None:
    """1.5·10⁻⁶ of a loss of 8 moves exp(8) by 12·10⁻⁶ of itself."""
    high = [replace(token, nll=token.nll + 6) for token in TOKENS]
    lines = [(step, math.exp(value * (1 + 1.5e-6))) for step, value in lines_of(high, [10, 20, 30])]
    found = verdict_of(log_of(lines, "perplexity", digits=12), evidence_of(high), "perplexity")
    assert found.verdict == "agrees"
    values = [value for _, value in lines]
    assert usual_noise(values, "exp") == pytest.approx([v * (1e-6 + 2e-6 * math.log(v)) for v in values])


def test_one_sample_a_line_is_no_average_that_could_be_told() -> None:
    tokens = make_tokens(range(1, 9), ranks=1, micros=1, samples=1)
    found = verdict_of(log_of(lines_of(tokens, list(range(1, 9)))), evidence_of(tokens))
    assert found.verdict == "agrees"
    assert not {"sample-mean", "line-before"} & set(found.ties_with)


def test_equal_token_counts_cannot_be_told() -> None:
    tokens = make_tokens(range(1, 9), longest=-5)
    found = verdict_of(log_of(lines_of(tokens, [2, 4, 6, 8])), evidence_of(tokens))
    assert found.verdict == "cannot tell"
    assert {"micro-mean", "sample-mean", "step-mean"} <= set(found.ties_with)


def test_what_the_dump_gives_is_not_impossible() -> None:
    """Gamma-distributed nll need not obey what softmax does: the log is as odd as its tokens are."""
    low = [replace(token, nll=token.nll / 50, correct=0.0) for token in TOKENS]
    rows = pl.concat(
        [
            log_of(lines_of(low, [10, 20, 30]), "loss").frame,
            log_of(lines_of(low, [10, 20, 30], value="correct"), "token_acc").frame,
        ]
    )
    evidence = evidence_of(low)
    assert audit_evidence(Logged(rows), None).violations
    found = audit_evidence(Logged(rows), evidence)
    assert {one.verdict for one in found.keys} == {"agrees"}
    assert found.ok
    assert found.notices
    elsewhere = audit_evidence(Logged(rows), without(evidence, STEP > 0))
    assert elsewhere.violations


def test_a_line_before_that_is_counted_again_is_still_found() -> None:
    lines = [(5, mean_of(TOKENS, 1, 5))] + [(s, mean_of(TOKENS, s - 5, s)) for s in (10, 15, 20, 25)]
    found = verdict_of(log_of(lines), EVIDENCE)
    assert (found.verdict, found.hypothesis) == ("bug", "line-before")
