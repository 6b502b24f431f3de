"""Sessions that define a group, an ordered group or the answers differently: never one number of both."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

import logitbox as lb
from logitbox.dumps.recorder import Recorder

V, COORD = 30, range(10, 20)
BASE = {"groups": {"coord": COORD}, "ordered": {"coord": {"sigma": 1.5, "truncate": 3}}, "types": ["desc"]}
REASON = r"sessions differ in {}: their tokens are not pooled; split by step"


def ordered(**options: object) -> dict:
    return BASE | {"ordered": {"coord": BASE["ordered"]["coord"] | options}}


def recorded(path: Path, *sessions: dict) -> tuple[lb.Dump, list[dict[str, float | None]]]:
    """Each session at its own step, and what it reported itself."""
    torch.manual_seed(0)
    live = []
    for step, options in enumerate(sessions):
        with Recorder(path, V, **options) as rec:
            labels = torch.randint(0, V, (4, 9))
            labels[:, 5] = 1
            is_desc = torch.rand(4, 9) < 0.5
            types = {"desc": is_desc} if "desc" in rec.spec.types.names else None
            rec.record(torch.randn(4, 9, V) * 2, labels, step=step, types=types)
            live.append(rec.metrics())
    return lb.open(path), live


def split(dump: lb.Dump, **more: str) -> dict[str, tuple[float | None, str | None]]:
    frame = lb.metrics(dump, **more).frame
    return {key: (value, reason) for key, value, reason in frame.select("key", "value", "reason").rows()}


OF_COORD = {
    "coord_token_frac", "coord_token_acc", "coord_nll", "text_token_acc", "coord_monitor/flip_desc_to_coord",
    "coord_monitor/coord_vocab_mass_at_gt_text", "coord_monitor/flip_coord_to_noncoord", "coord_bin_error",
    "coord_softce_w1/loss", "coord_softce_w1/coord_tokens", "coord_softce_w1/base_loss",
    "coord_softce_w1/composite_loss",
}  # fmt: skip
AS_EVER = {"nll", "token_acc", "desc_token_acc", "desc_token_frac", "n_tokens", "train_entropy"}
LOSS = {"coord_softce_w1/loss", "coord_softce_w1/composite_loss"}
TARGET = {"coord_softce_w1/soft_ce", "coord_softce_w1/w1", *LOSS}


@pytest.mark.parametrize(
    ("other", "what", "mixed"),
    [
        (BASE | {"groups": {"coord": range(10, 21)}}, "the ids of coord", OF_COORD),
        (ordered(normalize_w1=True), "normalize_w1 of coord", {"coord_softce_w1/w1", *LOSS}),
        (ordered(sigma=2.0), "sigma of coord", TARGET),
        (ordered(truncate=4), "truncate of coord", TARGET),
        (ordered(w1_weight=0.5), "w1_weight of coord", LOSS),
        (
            ordered(temperature=2.0, gate_temperature=1.0),
            "temperature of coord",
            {*TARGET, "coord_bin_error"},
        ),
        (
            ordered(gate_weight=0.0),  # tokens of an infinite gate are then no longer left out
            "gate_weight of coord",
            {*TARGET, "coord_softce_w1/gate", "coord_softce_w1/n_nonfinite", "coord_bin_error"},
        ),
        (
            ordered(gate_temperature=2.0),
            "gate_temperature of coord",
            {"coord_softce_w1/gate", "coord_softce_w1/coord_vocab_mass", *LOSS},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_defined_differently_is_null_and_says_so(
    tmp_path: Path, other: dict, what: str, mixed: set[str]
) -> None:
    dump, live = recorded(tmp_path / "d", BASE, other)
    for reduction in ("token_mean", "step_mean"):
        found = split(dump, reduction=reduction)
        for key in mixed:
            assert found[key][0] is None, key
            assert found[key][1].startswith(REASON.format(what)), (key, found[key])
        for key in AS_EVER | (OF_COORD - mixed):
            assert found[key][1] is None, (key, found[key])
    by_step = lb.metrics(dump, "step")
    for step, values in enumerate(live):
        for key, value in values.items():
            assert by_step.value(key, step=step) == pytest.approx(value, rel=1e-12), key
    row = lb.metrics(dump).filter(pl.col("key").is_in(mixed))
    assert row["low"].null_count() == row["high"].null_count() == row.height == len(mixed)


def test_a_sum_of_means_is_not_what_one_part_of_it_has_left(tmp_path: Path) -> None:
    found = split(recorded(tmp_path / "d", BASE, ordered(normalize_w1=True))[0])
    assert found["coord_softce_w1/base_loss"][0] is not None
    assert found["coord_softce_w1/composite_loss"][0] is None


@pytest.mark.parametrize(
    "others",
    [{"groups": {"coord": tuple(COORD)}}, {"groups": {"coord": COORD, "more": [1]}}, {"k": 3, "types": []}],
)
def test_what_means_the_same_is_pooled(tmp_path: Path, others: dict) -> None:
    """Written otherwise, or with other things beside it."""
    found = split(recorded(tmp_path / "d", BASE, BASE | others)[0])
    assert all(found[key][0] is not None for key in OF_COORD | TARGET | AS_EVER if "desc" not in key)
    assert not any("sessions differ" in (reason or "") for _, reason in found.values())


def test_the_order_of_ids_counts_where_they_are_bins(tmp_path: Path) -> None:
    found = split(recorded(tmp_path / "d", BASE, BASE | {"groups": {"coord": tuple(reversed(COORD))}})[0])
    assert found["coord_softce_w1/w1"][0] is found["coord_bin_error"][0] is None
    for key in ("coord_nll", "coord_monitor/flip_desc_to_coord", "coord_softce_w1/base_loss"):
        assert found[key][0] is not None, key


def test_a_session_without_the_group_takes_no_part(tmp_path: Path) -> None:
    dump, live = recorded(tmp_path / "d", {"types": ["desc"]}, BASE)
    found = split(dump)
    for key in (
        "coord_token_frac",
        "coord_softce_w1/loss",
        "coord_softce_w1/composite_loss",
        "text_token_acc",
    ):
        assert found[key][0] == pytest.approx(live[1][key], rel=1e-12), key


def test_a_group_that_is_ordered_in_one_session_only(tmp_path: Path) -> None:
    """The loss is that session's, whatever the other calls coord."""
    dump, live = recorded(tmp_path / "d", {"groups": {"coord": range(5)}}, BASE)
    found = split(dump)
    assert found["coord_softce_w1/loss"][0] == pytest.approx(live[1]["coord_softce_w1/loss"], rel=1e-12)
    assert found["coord_nll"][0] is found["text_token_acc"][0] is None


def test_a_name_that_is_a_type_here_and_the_rest_of_a_group_there(tmp_path: Path) -> None:
    """`text` is declared by one session; its tokens outside coord are `non_coord` then."""
    for name, sessions in (("a", ({}, {"types": ["text"]})), ("b", ({"types": ["text"]}, {}))):
        found = split(recorded(tmp_path / name, *(BASE | options for options in sessions))[0])
        for key in ("text_token_acc", "coord_softce_w1/base_loss", "coord_softce_w1/composite_loss"):
            assert found[key][0] is None, (name, key)
            assert "sessions differ in" in found[key][1], (name, key)
        assert found["coord_softce_w1/loss"][1] is None


def test_answers(tmp_path: Path) -> None:
    two, three = {"yes": [1], "no": [2]}, {"yes": [1], "no": [2], "perhaps": [3]}
    dump, live = recorded(tmp_path / "d", {"answers": two}, {"answers": three})
    found = split(dump)
    for key in (
        "avg_p_yes",
        "decision_prob_mass",
        "decision_accuracy",
        "decision_confidence",
        "decision_slots",
    ):
        assert found[key][0] is None, key
        assert found[key][1].startswith(REASON.format("the answers")), key
    assert found["avg_p_perhaps"][0] == pytest.approx(live[1]["avg_p_perhaps"], rel=1e-12)
    turned = {"no": [2], "yes": [1]}
    found = split(recorded(tmp_path / "turned", {"answers": two}, {"answers": turned})[0])
    assert found["decision_confidence"][0] is not None
    assert found["decision_accuracy"][0] is None  # the first declared wins among equals


def test_by_type(tmp_path: Path) -> None:
    dump, _ = recorded(tmp_path / "d", BASE, BASE | {"groups": {"coord": range(10, 21)}})
    table = lb.metrics(dump, "type")
    nulls = table.filter(pl.col("reason").fill_null("").str.contains("sessions differ"))
    assert set(nulls["type"]) == {"coord", "text"}
    assert table.value("nll", type="desc") == lb.metrics(dump).value("desc_nll")
    both = lb.metrics(dump, ["type", "step"])
    assert both.frame.filter(pl.col("reason").is_not_null()).is_empty()


def test_steps_that_both_sessions_have(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for options, steps in ((BASE, (0, 1)), (ordered(sigma=3.0), (1, 2))):
        with Recorder(tmp_path / "d", V, **options) as rec:
            for step in steps:
                rec.record(torch.randn(2, 9, V), torch.randint(0, V, (2, 9)), step=step)
    by_step = lb.metrics(lb.open(tmp_path / "d"), "step")
    assert [by_step.value("coord_softce_w1/w1", step=step) is None for step in range(3)] == [
        False,
        True,
        False,
    ]
    assert by_step.value("coord_nll", step=1) is not None
