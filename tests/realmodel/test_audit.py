"""What real trainers log, audited against what every token did (`scripts/record_trainers.py` records the fixtures)."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from logitbox.analysis.audit.audit import Audit, audit
from logitbox.demo.config import DemoConfig
from logitbox.demo.model import ModelConfig
from logitbox.demo.train import train
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.flags import Flag

pytestmark = pytest.mark.realmodel

FOLDER = Path(__file__).parent / "trainers"
RUNS = sorted(path.name for path in FOLDER.iterdir())
NOISE = 1e-6


@dataclass
class Batch:
    """Sums over the tokens of one micro-batch of one rank; `kept`: rows that the sampler did not repeat."""

    step: int
    micro: int
    rank: int
    rows: int
    kept: int = 0
    n: int = 0
    nll: float = 0.0
    correct: int = 0
    entropy: float = 0.0


Group = Callable[[Batch], object]
GROUPS: dict[str, tuple[Group, bool]] = {
    "definition": (lambda _: 0, False),
    "step-mean": (lambda batch: batch.step, False),
    "rank-mean": (lambda batch: (batch.step, batch.rank), False),
    "micro-mean": (lambda batch: (batch.step, batch.micro, batch.rank), False),
    "micro-pooled": (lambda batch: (batch.step, batch.micro), False),
    "eval-batch": (lambda batch: (batch.micro, batch.rank), True),
    "eval-batch-pooled": (lambda batch: batch.micro, True),
}
"""Hypothesis to the groups whose token means are averaged, and whether they are weighted by their rows."""

TRANSFORMERS = {"loss": "step-mean", "eval_loss": "eval-batch", "eval_token_accuracy": "definition"}
TRL = {
    "loss": "step-mean",
    "mean_token_accuracy": "micro-pooled",
    "entropy": "micro-pooled",
    "eval_loss": "eval-batch",
    "eval_mean_token_accuracy": "micro-pooled",
    "eval_entropy": "micro-pooled",
}
LOGGED = {
    "transformers": TRANSFORMERS,
    "transformers-two-ranks": TRANSFORMERS | {"loss": "definition", "eval_loss": "eval-batch-pooled"},
    "transformers-two-ranks-own-tokens": TRANSFORMERS | {"loss": "rank-mean"},
    "transformers-4.45.2": TRANSFORMERS | {"loss": "micro-mean"},
    "transformers-4.46.3-two-ranks": TRANSFORMERS
    | {"loss": "first-labels-in-count", "eval_loss": "eval-batch-times-world"},
    "trl": {key: one.replace("micro-pooled", "micro-mean") for key, one in TRL.items()},  # of one rank
    "trl-two-ranks": TRL,
    "trl-two-ranks-cut": {
        "loss": "definition",
        "mean_token_accuracy": "micro-pooled-cut",
        "entropy": "micro-pooled-cut",
        "eval_loss": "eval-batch-kept",
        "eval_mean_token_accuracy": "micro-pooled-cut+duplicates",
        "eval_entropy": "micro-pooled-cut+duplicates",
    },
}
"""Run to key to the convention its trainer follows, as read in its code."""

ALL = [(name, key, convention) for name, keys in LOGGED.items() for key, convention in keys.items()]


BUGS = {
    "first-labels-in-count",
    "eval-batch-times-world",
    "micro-pooled-cut",
    "micro-pooled-cut+duplicates",
}
ALIKE = {
    ("transformers-4.46.3-two-ranks", "eval_loss"): "micro-mean-times-world",
    ("transformers-two-ranks", "eval_loss"): "micro-pooled",
    ("transformers-two-ranks-own-tokens", "eval_loss"): "micro-mean",
    ("trl-two-ranks", "eval_loss"): "micro-mean",
    ("trl-two-ranks", "eval_mean_token_accuracy"): "eval-batch-pooled",
    ("trl-two-ranks", "eval_entropy"): "eval-batch-pooled",
}
"""Keys for which another convention gives the same on these data, and which: two ranks' batches have two rows each, and to
weight them by their rows changes nothing."""


def value_of(key: str) -> str:
    return "nll" if "loss" in key else "entropy" if "entropy" in key else "correct"


def history(name: str) -> list[dict[str, float]]:
    return json.loads((FOLDER / name / "trainer_state.json").read_text())["log_history"]


def batches(dump: Dump, phase: str) -> list[Batch]:
    found = {
        (row["step"], row["micro"], row["rank"]): Batch(row["step"], row["micro"], row["rank"], row["rows"])
        for row in dump.batches.collect().iter_rows(named=True)
        if row["phase"] == phase
    }
    repeated: set[tuple[int, ...]] = set()
    for row in dump.tokens.collect().iter_rows(named=True):
        if row["phase"] == phase and row["flags"] & Flag.SUPERVISED:  # probes add rows of other positions
            batch = found[row["step"], row["micro"], row["rank"]]
            batch.n += 1
            batch.nll += row["nll"]
            batch.entropy += row["entropy"]
            batch.correct += row["top_ids"][0] == row["gold"]
            if row["flags"] & Flag.DUPLICATE:
                repeated.add((row["step"], row["micro"], row["rank"], row["sample"]))
    for key, batch in found.items():
        batch.kept = batch.rows - sum(key == where[:3] for where in repeated)
    return list(found.values())


def uncut(chosen: Sequence[Batch]) -> list[Batch]:
    """Without rank 1 in an epoch's last step, which has three micro-batches; of an evaluation, without its last."""
    steps = {batch.step: max(one.micro for one in chosen if one.step == batch.step) for batch in chosen}
    is_eval = any(batch.kept < batch.rows for batch in chosen)
    return [
        batch
        for batch in chosen
        if batch.rank == 0 or (batch.micro < 2 if is_eval else steps[batch.step] == 3)
    ]


def averaged(chosen: Sequence[Batch], value: str, convention: str) -> float:
    if convention.startswith("micro-pooled-cut"):
        return averaged(uncut(chosen), value, "micro-pooled")
    if convention == "eval-batch-kept":
        means = [(batch.kept, getattr(batch, value) / batch.n) for batch in chosen]
        return sum(weight * mean for weight, mean in means) / sum(weight for weight, _ in means)
    name = convention.removesuffix("-times-world")
    if name != convention:
        return len({batch.rank for batch in chosen}) * averaged(chosen, value, name)
    if name == "first-labels-in-count":  # every row's first token is a label, which nothing predicts
        labels = sum(batch.n + batch.rows for batch in chosen)
        return sum(getattr(batch, value) for batch in chosen) / labels
    group, by_rows = GROUPS[name]
    groups: dict[object, list[Batch]] = defaultdict(list)
    for batch in chosen:
        groups[group(batch)].append(batch)
    total = weights = 0.0
    for members in groups.values():
        weight = sum(batch.rows for batch in members) if by_rows else 1
        mean = sum(getattr(batch, value) for batch in members) / sum(batch.n for batch in members)
        total, weights = total + weight * mean, weights + weight
    return total / weights


def errors(name: str, key: str, convention: str) -> list[float]:
    """Logged minus computed, line by line: transformers counts its steps from 0 while the model runs."""
    is_eval = key.startswith("eval_")
    recorded = batches(open_dump(FOLDER / name / "dump"), "eval" if is_eval else "train")
    found, before = [], 0
    for line in history(name):
        if key in line:
            step = int(line["step"])
            first, last = (step, step) if is_eval else (before, step - 1)
            chosen = [batch for batch in recorded if first <= batch.step <= last]
            found.append(line[key] - averaged(chosen, value_of(key), convention))
            before = step
    return found


def copied(name: str, folder: Path) -> Path:
    """A copy of a fixture: a tally is kept in the dump it is of."""
    return Path(shutil.copytree(FOLDER / name, folder / name))


def audited(folder: Path) -> Audit:
    return audit(folder / "trainer_state.json", open_dump(folder / "dump"))


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Audit]:
    folder = tmp_path_factory.mktemp("trainers")
    return {name: audited(copied(name, folder)) for name in RUNS}


@pytest.mark.parametrize(("name", "key", "convention"), ALL)
def test_trainers_compute_what_their_code_says(name: str, key: str, convention: str) -> None:
    rounding = 5e-5 if key == "loss" and "-4.4" in name else 0.0  # they rounded it to four digits
    found = errors(name, key, convention)
    assert len(found) >= 2
    assert max(map(abs, found)) <= rounding + NOISE
    if convention != "definition":
        assert max(map(abs, errors(name, key, "definition"))) > 100 * NOISE


@pytest.mark.parametrize(("name", "key", "convention"), ALL)
def test_the_audit_names_the_convention(
    audits: dict[str, Audit], name: str, key: str, convention: str
) -> None:
    found = audits[name].key(key)
    assert found.n_skipped == 0
    if convention == "definition":
        assert found.verdict == "agrees"
    elif (name, key) in ALIKE:
        assert found.verdict == ("bug" if convention in BUGS else "cannot tell")
        assert {found.hypothesis, *found.ties_with} >= {convention, ALIKE[name, key]}
    else:
        expected = "bug" if convention in BUGS else "other convention"
        assert (found.verdict, found.hypothesis) == (expected, convention)


def test_only_trainers_with_bugs_are_convicted(audits: dict[str, Audit]) -> None:
    convicted = [name for name, found in audits.items() if not found.ok]
    assert convicted == ["transformers-4.46.3-two-ranks", "trl-two-ranks-cut"]


def test_the_old_loss_is_told_from_the_token_mean(audits: dict[str, Audit]) -> None:
    found = audits["transformers-4.45.2"].key("loss")
    assert set(found.ties_with) <= {"micro-mean-by-step"}  # its steps all have four micro-batches
    for line in found.lines.iter_rows(named=True):
        assert abs(line["logged"] - line["explained"]) <= 5e-5 + 1e-5
    assert (found.lines["logged"] - found.lines["reference"]).abs().max() > 0.01


def test_ranks_that_a_metric_leaves_out_are_told(audits: dict[str, Audit]) -> None:
    """TRL cuts the ranks' counts as if they were samples, in all micro-batches of an epoch's last step."""
    found = audits["trl-two-ranks-cut"].key("mean_token_accuracy")
    assert found.n_lines == 6
    assert "first ranks alone" in found.about
    assert "gather_for_metrics" in found.fix
    off = [abs(error) > NOISE for error in errors("trl-two-ranks-cut", found.key, "micro-pooled")]
    assert off == [False, True] * 3  # every other step is the last of an epoch


def test_a_trainer_is_audited_while_it_is_here(tmp_path: Path) -> None:
    import trainer_runs  # noqa: PLC0415 (loads transformers' Trainer, seconds that collecting tests should not cost)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a model this small only loses by more
    try:
        trainer_runs.run("transformers", tmp_path)
    finally:
        torch.set_num_threads(threads)
    found = audited(tmp_path)
    assert {one.key: (one.verdict, one.hypothesis) for one in found.keys} == {
        "loss": ("other convention", "step-mean"),
        "eval_loss": ("other convention", "eval-batch"),
        "eval_token_accuracy": ("agrees", "definition"),
    }


def test_the_demo_logs_a_mean_of_means(tmp_path: Path) -> None:
    config = DemoConfig(
        steps=4,
        micro_batch=4,
        log_every=2,
        record_every=1,
        evals=2,
        eval_scenes=4,
        warmup=1,
        threads=1,
        model=ModelConfig(width=32, channels=16, blocks=1),
    )
    found = audit(open_dump(train(tmp_path, config).dump))
    told = {one.key: (one.verdict, one.hypothesis) for one in found.keys}
    assert told["token_acc"] == ("other convention", "micro-mean")
    assert told["loss"] == ("other convention", "micro-mean+composite")
    assert told["eval_token_acc"] == ("agrees", "definition")
