"""docs/metrics.md says what the registry says, and has every key that the seeds name."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from logitbox.dumps.definitions.entries import full_keys
from logitbox.dumps.definitions.registry import metrics_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "metrics.md"
CODE = re.compile(r"`([^`\n]+)`")

# What the seeds list, in their own spelling; `*` stands for 1, 2, 5 and 10.
NAMED = {
    "000": """
        `coord_softce_w1/loss` `coord_softce_w1/soft_ce` `coord_softce_w1/w1` `coord_softce_w1/gate`
        `coord_softce_w1/coord_vocab_mass` `coord_softce_w1/coord_tokens` `token_acc` `token_acc_top5` `text_token_acc`
        `desc_token_frac`, `format_token_frac`, `coord_token_frac` `desc_token_acc`, `format_token_acc`,
        `coord_token_acc` `desc_token_acc_top5`, `format_token_acc_top5`, `coord_token_acc_top5`
        `coord_monitor/flip_coord_to_noncoord` `coord_monitor/flip_text_to_coord` `coord_monitor/flip_format_to_coord`
        `coord_monitor/flip_desc_to_coord` `coord_monitor/coord_vocab_mass_at_gt_coord`
        `coord_monitor/coord_vocab_mass_at_gt_text` `coord_monitor/coord_vocab_mass_at_gt_format`
        `coord_monitor/coord_vocab_mass_at_gt_desc`
    """,
    "001": """
        `train_entropy` / `val_entropy` `train_perplexity` / `val_perplexity` `train_top1_prob` / `val_top1_prob`
        `train_top2_prob` / `val_top2_prob` `train_top5_prob` / `val_top5_prob` `train_top10_prob` / `val_top10_prob`
        `train_reasoning_entropy` / `val_reasoning_entropy` `train_reasoning_perplexity` / `val_reasoning_perplexity`
        `train_reasoning_top*_prob` / `val_reasoning_top*_prob` `train_tool_call_entropy` / `val_tool_call_entropy`
        `train_tool_call_perplexity` / `val_tool_call_perplexity` `train_tool_call_top*_prob` / `val_tool_call_top*_prob`
    """,
    "003": """
        `eval_avg_p_accept` `eval_avg_p_reject` `eval_decision_prob_mass` `eval_decision_confidence`
        `eval_decision_accuracy`
    """,
}
SEED_TYPES = {"000": "coord desc format text", "001": "reasoning tool_call", "003": "accept reject"}


def named(seed: str) -> set[str]:
    """The keys that a seed lists, each by itself."""
    found = CODE.findall(NAMED[seed])
    return {key.replace("*", n) for key in found for n in (("1", "2", "5", "10") if "*" in key else ("",))}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metrics_table", ROOT / "scripts" / "metrics_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    """What stands between the markers of a table."""
    return page.partition(f"<!-- table {name} -->")[2].partition(f"<!-- end {name} -->")[0]


def rows(text: str) -> list[list[str]]:
    """Cells of every row of a table in Markdown, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]


def test_the_page_is_what_the_registry_says(script: ModuleType, page: str):
    assert script.filled(page) == page, "run .venv/bin/python scripts/metrics_table.py"


def test_a_stale_page_is_told(script: ModuleType, page: str):
    assert "token mean" in page
    assert script.filled(page.replace("token mean", "mean of means")) != page.replace(
        "token mean", "mean of means"
    )
    with pytest.raises(SystemExit, match="lacks the markers <!-- table 000 -->"):
        script.filled(page.replace("<!-- table 000 -->", ""))


@pytest.mark.parametrize("seed", NAMED)
def test_every_key_of_a_seed_is_on_the_page(seed: str, page: str):
    assert len(named(seed)) == {"000": 26, "001": 36, "003": 5}[seed]
    assert named(seed) <= set(CODE.findall(section(page, seed)))


@pytest.mark.parametrize("family", ["logitbox", "000", "001", "003"])
def test_every_metric_is_in_one_row(family: str, script: ModuleType, page: str):
    """Each key is that of one row's, its types filled in; the other way round, no row is of nothing."""
    keys = {metric.key for metric in metrics_of(script.SPEC) if metric.family == family}
    names = [*script.SPEC.types.names, "accept", "reject", "text"]
    written = [key for cells in rows(section(page, family)) for key in CODE.findall(cells[0])]
    seen = [key for key in written if "{" not in key]
    for key in written:
        if "{" in key:
            filled = {re.sub(r"\{(type|answer)\}", name, key) for name in names} & (keys - set(seen))
            assert filled, key
            seen += filled
    assert sorted(seen) == sorted(keys)


@pytest.mark.parametrize("seed", NAMED)
def test_keys_that_a_seed_does_not_name_are_marked(seed: str, script: ModuleType, page: str):
    metrics = [metric for metric in metrics_of(script.SPEC) if metric.family == seed]
    logged = {
        key for phase in ("train", "eval") for key in full_keys(metrics, phase, ("train", "eval")).values()
    }
    assert named(seed) <= logged
    bare = {re.sub(r"^(train|val|eval)_", "", key) for key in named(seed)}
    for cells in rows(section(page, seed)):
        for key in CODE.findall(cells[0]):
            keys = {re.sub(r"\{(type|answer)\}", name, key) for name in SEED_TYPES[seed].split()}
            assert ("added" in cells[-1]) == bare.isdisjoint(keys), key


def test_rows_tell_formula_columns_reduction_range_and_loss(page: str):
    """Some rows as the seeds define them."""
    found = {CODE.findall(cells[0])[0]: [cell.strip() for cell in cells[1:]] for family in ("000", "001", "003")
             for cells in rows(section(page, family))}  # fmt: skip
    assert found["coord_token_frac"][2:5:2] == ["`all`", "`gold`"]
    assert found["{type}_token_frac"][2:5:2] == ["`.typed`", "`types`"]
    own = "`gold`, `coord_mean`, `coord_soft_ce`, `coord_w1`, `coord_gate`"
    assert found["coord_softce_w1/w1"][4] == found["coord_softce_w1/n_nonfinite"][4] == own
    _, formula, over, reduction, columns, limits, loss, seed = found["perplexity"]
    assert (formula, reduction, limits) == ("−ln p(gold), nats", "exp of the token mean", "[1, 1,000,000]")
    assert (over, columns, loss, seed) == ("`.plain`, `{type}.plain`", "`nll`", "no", "001")
    assert found["coord_softce_w1/gate"][6] == "yes (train) if gate_weight ≠ 0"
    assert found["coord_softce_w1/loss"][1] == "soft_ce_weight·soft_ce + w1_weight·w1 + gate_weight·gate"
    assert found["coord_monitor/flip_{type}_to_coord"][2] == "`{type}`"
    assert found["top5_prob"][4] == "`top5_prob`; without it `top_nll`, `top_gap`, `tail_mass`"
    assert found["avg_p_{answer}"][4] == "`logmass_{answer}`"


def test_populations_tell_what_they_read(page: str):
    columns = {CODE.findall(name)[0]: cell.strip() for name, _, cell in rows(section(page, "populations"))}
    assert columns["all"] == "–"
    assert columns["{type}"] == "`types`"
    assert columns["{group}"] == columns["text"] == "`gold`"
    assert columns[".plain"] == columns[".typed"] == "`flags`"
    assert columns["{type}.plain"] == "`flags`, `types`"
