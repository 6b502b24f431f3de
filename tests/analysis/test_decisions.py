"""`decisions` against a softmax of the full logits in float64, row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import binomtest

import logitbox as lb
from logitbox.analysis.bins import reliability_table
from logitbox.dumps.recorder import Recorder
from logitbox.errors import DamagedDumpError, InputError

V = 40
ANSWERS = {"accept": [7, 3, 30], "reject": [4, 9]}
WORDS = [f" w{i}" for i in range(V)]


@dataclass
class Kept:
    """What went in: one dict per slot, in recording order."""

    rows: list[dict] = field(default_factory=list)

    def record(self, rec: Recorder, rng: np.random.Generator, answers=ANSWERS, n=6, first=0, **where) -> None:
        """One micro-batch [n, 5, V]: a prompt token, text, the slot at position 3, an end."""
        logits = torch.from_numpy(rng.normal(0, 2, (n, 5, V)).astype(np.float32))
        labels = torch.from_numpy(rng.integers(10, 29, (n, 5)))
        labels[:, 0] = -100
        every = [i for ids in answers.values() for i in ids]
        labels[:, 3] = torch.from_numpy(rng.choice(every, n))
        logits[:, 2, every] += 2
        samples = list(range(first, first + n))
        rec.record(logits, labels, sample=samples, **where)
        for b in range(n):
            place = {"phase": "train", "dataset": "", "step": 0, **where}
            x = logits[b, 2].double().numpy()
            self.rows.append({**place, "sample": samples[b], **decided(x, int(labels[b, 3]), answers)})


def decided(x: np.ndarray, gold: int, answers=ANSWERS) -> dict:
    """By the definitions, from one row of logits."""
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    mass = {name: float(sum(p[i] for i in ids)) for name, ids in answers.items()}
    pred = max(mass, key=lambda name: mass[name]) if max(mass.values()) > 0 else None
    gt = next((name for name, ids in answers.items() if gold in ids), None)
    top = int(np.flatnonzero(x == x.max())[0])
    return {
        **{f"p_{name}": value for name, value in mass.items()},
        "prob_mass": sum(mass.values()),
        "confidence": max(mass.values()),
        "pred": pred,
        "gt": gt,
        "correct": pred is not None and pred == gt,
        "top_id": top,
        "elsewhere": not any(top in ids for ids in answers.values()),
    }


def check(frame: pl.DataFrame, expected: list[dict]) -> None:
    assert frame.height == len(expected) > 0
    for row, want in zip(frame.iter_rows(named=True), expected, strict=True):
        assert {name: row[name] for name in want if not isinstance(want[name], float)} == {
            name: value for name, value in want.items() if not isinstance(value, float)
        }
        numbers = {name: value for name, value in want.items() if isinstance(value, float)}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-12)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[lb.Dump, list[dict]]:
    """Train and two evaluation sets, several steps, small shards; training set back to step 3 by a second session."""
    path, rng = tmp_path_factory.mktemp("decisions") / "dump", np.random.default_rng(11)
    kept, hidden = Kept(), Kept()
    options = {"vocab": WORDS, "k": 4, "answers": ANSWERS, "shard_rows": 15}
    with Recorder(path, **options) as rec:
        for step in range(1, 5):
            for micro in range(2):
                (kept if step < 3 else hidden).record(rec, rng, step=step, micro=micro, first=6 * micro)
            for dataset in ("b", "a"):
                kept.record(rec, rng, step=step, phase="eval", dataset=dataset)
        rec.samples({"sample": [2], "dataset": ["a"], "key": ["two"], "source": ["web"]})
    with Recorder(path, **options, types=["other"], resume_from=3) as rec:
        kept.record(rec, rng, step=3, micro=0)
        kept.record(rec, rng, step=5, phase="eval", dataset="a")
    for row in kept.rows:
        row.pop("micro", None)
    return lb.open(path), kept.rows


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, lambda r: (r["dataset"], r["step"]) in {("b", 4), ("a", 5)} and r["phase"] == "eval"),
        ({"dataset": "b"}, lambda r: (r["dataset"], r["step"]) == ("b", 4)),
        ({"step": 2}, lambda r: r["phase"] == "eval" and r["step"] == 2),
        ({"step": np.int64(2), "dataset": "a"}, lambda r: (r["dataset"], r["step"]) == ("a", 2)),
        ({"step": "all"}, lambda r: r["phase"] == "eval"),
        ({"phase": "train"}, lambda r: r["phase"] == "train" and r["step"] == 3),
        ({"phase": "train", "step": "all"}, lambda r: r["phase"] == "train"),
    ],
)
def test_rows_are_those_of_a_softmax(mixed, options, wanted):
    dump, rows = mixed
    result = lb.decisions(dump, **options)
    expected = [row for row in rows if wanted(row)]
    check(result.frame, expected)
    assert result.accuracy == pytest.approx(np.mean([row["correct"] for row in expected]))
    assert result.confidence == pytest.approx(np.mean([row["confidence"] for row in expected]), rel=1e-6)
    assert result.prob_mass == pytest.approx(np.mean([row["prob_mass"] for row in expected]), rel=1e-6)
    assert result.elsewhere == pytest.approx(np.mean([row["elsewhere"] for row in expected]))
    assert result.answers == ("accept", "reject")
    assert set(result.frame["pos"]) == {3}
    assert result.frame["top_text"].to_list() == [WORDS[row["top_id"]] for row in expected]
    assert f"{len(expected)} decisions, accuracy {result.accuracy:.4f}" in str(result)


def test_samples_bear_their_names(mixed):
    frame = lb.decisions(mixed[0], dataset="a").frame
    assert frame["key"].to_list() == ["0", "1", "two", "3", "4", "5"]
    assert frame["source"].to_list() == [None, None, "web", None, None, None]


def test_no_hidden_row_is_shown_or_counted(mixed):
    result = lb.decisions(mixed[0], phase="train", step="all")
    assert result.evolution["step"].to_list() == [1, 2, 3]
    assert result.evolution["n"].to_list() == [12, 12, 6]
    with pytest.raises(InputError, match="step is 4; of phase train the nearest recorded steps are 1, 2, 3"):
        lb.decisions(mixed[0], phase="train", step=4)


@pytest.mark.parametrize("phase", ["train", "eval"])
def test_evolution_equals_metrics_by_step(mixed, phase):
    """And does not depend on the step whose rows are shown."""
    frame = lb.decisions(mixed[0], phase=phase).evolution
    metrics = lb.metrics(mixed[0], by="step")
    prefix = "" if phase == "train" else "eval_"
    for row in frame.iter_rows(named=True):
        step = row.pop("step")
        assert row.pop("n") == metrics.value(f"{prefix}decision_slots", step=step)
        assert len(row) == 6
        for key, value in row.items():
            assert value == pytest.approx(metrics.value(prefix + key, step=step), abs=1e-12), key
    rows = [r for r in mixed[1] if r["phase"] == phase and r["step"] == 2]
    second = frame.filter(pl.col("step") == 2).row(0, named=True)
    assert second["avg_p_reject"] == pytest.approx(np.mean([r["p_reject"] for r in rows]), rel=1e-6)
    assert second["decision_accuracy"] == pytest.approx(np.mean([r["correct"] for r in rows]))


def one(path: Path, logits: torch.Tensor, labels: torch.Tensor, answers=ANSWERS, **options) -> lb.Dump:
    """A dump of one evaluation of rows [N, V], each a sample."""
    with Recorder(path, V, k=1, answers=answers) as rec:
        rec.record(logits, labels, step=1, phase="eval", sample=list(range(len(labels))), **options)
    return lb.open(path)


def test_ties_and_answers_without_mass(tmp_path):
    logits = torch.zeros(4, V)
    logits[0, [7, 3, 30, 4, 9]] = torch.tensor([1.0, 2.0, 3.0, 3.0, 2.0])
    logits[1, [3, 7, 30, 4, 9]] = -torch.inf
    logits[1, 4] = 0.0
    logits[2, [3, 7, 30, 4, 9]] = -torch.inf
    logits[3, [7, 30, 4]] = -torch.inf  # one token of each answer is left, and they are equal
    labels = torch.tensor([9, 4, 20, 3])
    slot = {"decision": torch.ones(4, dtype=torch.bool)}
    frame = lb.decisions(one(tmp_path / "d", logits, labels, types=slot)).frame
    check(frame, [decided(x.double().numpy(), int(g)) for x, g in zip(logits, labels, strict=True)])
    assert frame["pred"].to_list() == ["accept", "reject", None, "accept"]
    assert frame["gt"].to_list() == ["reject", "reject", None, "accept"]
    assert frame["correct"].to_list() == [False, True, False, True]
    assert frame["confidence"][2] == frame["prob_mass"][2] == 0
    declared = {"reject": [4, 9], "accept": [7, 3, 30]}
    again = lb.decisions(one(tmp_path / "other", logits, labels, declared, types=slot))
    assert again.frame["pred"].to_list() == ["accept", "reject", None, "reject"]
    assert "gold of 1 is no answer: counted as wrong" in str(again)
    table = again.reliability(10)
    assert table["n"].sum() == 4
    assert table["n"][0] == 3  # 0, 1/36 and 1/37 among them


def test_what_is_in_no_row_is_told(tmp_path):
    """A NaN row, one that a sampler repeated, and samples whose text never comes to an answer."""
    logits, labels = torch.zeros(7, 3, V), torch.full((7, 3), 20)
    labels[:4, 2] = 3
    logits[1, 1, 0] = torch.nan
    flags = {
        "duplicate": torch.tensor([[False], [False], [True], [False], [True], [False], [False]]).expand(7, 3)
    }
    with Recorder(tmp_path / "d", V, answers=ANSWERS) as rec:
        rec.record(logits, labels, step=1, phase="eval", sample=list(range(7)), flags=flags)
    result = lb.decisions(lb.open(tmp_path / "d"))
    assert result.frame["sample"].to_list() == [0, 3]
    assert dict(result.left_out) == {"nonfinite": 1, "duplicate": 1, "without_slot": 2}
    assert "1 non-finite left out; 1 repeated by a sampler left out" in str(result)
    assert "2 samples evaluated without a decision slot" in str(result)


def test_two_slots_in_one_sample_and_passes(tmp_path):
    logits, labels = torch.zeros(2, 4, V), torch.full((2, 4), 3)
    slots = {"decision": torch.tensor([[False, True, False, True]] * 2)}
    with Recorder(tmp_path / "d", V, answers=ANSWERS) as rec:
        for _ in range(2):
            rec.start_pass("eval")
            rec.record(logits, labels, step=4, phase="eval", sample=[5, 6], types=slots)
    dump = lb.open(tmp_path / "d")
    last = lb.decisions(dump).frame
    assert last.select("pass", "sample", "pos").rows() == [(1, 5, 1), (1, 5, 3), (1, 6, 1), (1, 6, 3)]
    assert lb.decisions(dump, step=4).frame["pass"].to_list() == [0] * 4 + [1] * 4
    assert [record["pass"] for record in lb.decisions(dump, step=4).records()] == [0] * 4 + [1] * 4
    assert set(next(lb.decisions(dump).records())) == {
        "sample_id",
        "p_accept",
        "p_reject",
        "gt",
        "pred",
        "correct",
    }


def test_sessions_with_other_answers_or_none(tmp_path):
    rng, kept, other = np.random.default_rng(1), Kept(), Kept()
    letters = {"A": [3], "B": [4], "C": [5, 6]}
    with Recorder(tmp_path / "d", V, answers=ANSWERS) as rec:
        kept.record(rec, rng, phase="eval", step=1)
    with Recorder(tmp_path / "d", V, answers=letters) as rec:
        other.record(rec, rng, answers=letters, phase="eval", step=2)
    with Recorder(tmp_path / "d", V) as rec:
        rec.record(torch.zeros(2, V), torch.tensor([3, 4]), phase="eval", step=3)
    result = lb.decisions(lb.open(tmp_path / "d"), step="all")
    check(result.frame[:6], kept.rows)
    check(result.frame[6:], other.rows)
    assert result.frame["p_C"][:6].null_count() == result.frame["p_accept"][6:].null_count() == 6
    assert result.answers == ("accept", "reject", "A", "B", "C")
    assert result.classwise_ece(5) == pytest.approx(classwise(result.frame, result.answers, 5), rel=1e-12)
    assert "1 session without answers not looked at" in str(result)
    assert lb.decisions(lb.open(tmp_path / "d")).frame["step"].unique().to_list() == [2]


def test_default_phase(tmp_path):
    rng, kept = np.random.default_rng(2), Kept()
    with Recorder(tmp_path / "d", V, answers=ANSWERS) as rec:
        kept.record(rec, rng, step=1)
        assert_phase(rec, tmp_path, "train")
        kept.record(rec, rng, phase="zero", step=1)
        kept.record(rec, rng, phase="early", step=2)
        assert_phase(rec, tmp_path, "early")
        kept.record(rec, rng, phase="zero", step=3)
        rec.record(torch.zeros(2, V), torch.tensor([20, 21]), phase="text", step=4)
        assert_phase(rec, tmp_path, "zero")
    none = lb.decisions(lb.open(tmp_path / "d"), phase="text")
    assert (none.frame.height, none.accuracy, none.ece(), none.classwise_ece()) == (0, None, None, None)
    assert str(none) == "text, step 4: no decisions; 2 samples evaluated without a decision slot"
    assert none.histogram()["n"].sum() == 0


def assert_phase(rec: Recorder, path: Path, phase: str) -> None:
    rec.flush()
    assert lb.decisions(lb.open(path / "d")).phase == phase


def test_a_step_recorded_twice_is_told(tmp_path):
    rng, kept = np.random.default_rng(3), Kept()
    for _ in range(2):
        with Recorder(tmp_path / "d", V, answers=ANSWERS) as rec:
            kept.record(rec, rng, phase="eval", step=1)
    assert "1 step was recorded by more than one session" in str(
        lb.decisions(lb.open(tmp_path / "d"), step="all")
    )


def loop(confidence, correct, bins):
    """Bins by comparison with their edges, one value at a time."""
    filled: dict[int, list[int]] = {}
    for i, c in enumerate(confidence):
        last = [b for b in range(bins) if b / bins <= c < (b + 1) / bins or (b == bins - 1 and c >= 1)]
        filled.setdefault(last[0], []).append(i)
    for b, members in sorted(filled.items()):
        right = sum(bool(correct[i]) for i in members)
        interval = binomtest(right, len(members)).proportion_ci(method="wilson")
        sure = math.fsum(confidence[i] for i in members) / len(members)
        yield b / bins, (b + 1) / bins, len(members), sure, right / len(members), interval.low, interval.high


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_reliability_and_histogram_are_those_of_a_loop(mixed, bins):
    result = lb.decisions(mixed[0], step="all")
    confidence, correct = result.frame["confidence"].to_list(), result.frame["correct"].to_list()
    expected = list(loop(confidence, correct, bins))
    table = result.reliability(bins)
    assert table.columns == ["low", "high", "n", "confidence", "accuracy", "accuracy_low", "accuracy_high"]
    assert table.to_numpy() == pytest.approx(np.array(expected), rel=1e-12, abs=1e-12)
    ece = sum(n * abs(accuracy - sure) for _, _, n, sure, accuracy, *_ in expected) / len(confidence)
    assert result.ece(bins) == pytest.approx(ece, rel=1e-12)
    counts = result.histogram(bins)
    assert counts.height == bins
    assert counts.filter(pl.col("n") > 0)["n"].to_list() == [row[2] for row in expected]
    assert counts["right"].sum() == sum(correct)
    assert (counts["right"] + counts["wrong"] == counts["n"]).all()


def classwise(frame, answers, bins):
    """By the definition, one answer, bin and slot at a time."""
    total, seen = 0.0, 0
    for name in answers:
        rows = [r for r in frame.iter_rows(named=True) if r[f"p_{name}"] is not None and r["prob_mass"] > 0]
        pairs = [(r[f"p_{name}"] / r["prob_mass"], r["gt"] == name) for r in rows]
        seen += bool(pairs)
        for b in range(bins):
            inside = [
                (p, hit)
                for p, hit in pairs
                if b / bins <= min(p, 1) and (p < (b + 1) / bins or b == bins - 1)
            ]
            if inside:
                share = sum(hit for _, hit in inside) / len(inside)
                sure = math.fsum(p for p, _ in inside) / len(inside)
                total += len(inside) / len(pairs) * abs(share - sure)
    return total / seen


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_classwise_ece_is_that_of_a_loop(mixed, bins):
    for options in ({}, {"step": "all"}, {"phase": "train"}):
        result = lb.decisions(mixed[0], **options)
        truth = classwise(result.frame, result.answers, bins)
        assert result.classwise_ece(bins) == pytest.approx(truth, rel=1e-12, abs=1e-15)
        # Of two answers each gap is the other's, bin by mirrored bin.
        assert result.classwise_ece(1) == pytest.approx(
            abs(
                np.mean(
                    [(r["gt"] == "accept") - r["p_accept"] / r["prob_mass"] for r in result.frame.to_dicts()]
                )
            ),
            rel=1e-9,
        )
    with pytest.raises(InputError, match="bins is 0"):
        lb.decisions(mixed[0]).classwise_ece(0)


def test_values_on_an_edge_belong_to_the_bin_above():
    """Where c · bins rounds below the edge's number too; 1, and what rounds above it, to the last."""
    confidence = np.array([k / 49 for k in range(50)] + [1 + 1e-9])
    table = reliability_table(confidence, np.zeros(51, dtype=bool), 49)
    assert table["low"].to_list() == [k / 49 for k in range(49)]
    assert table["n"].to_list() == [1] * 48 + [3]


@pytest.mark.parametrize("bins", [0, -1, 2.5, True])
def test_numbers_of_bins_that_are_none(mixed, bins):
    with pytest.raises(InputError, match=f"bins is {bins}; give a whole number"):
        lb.decisions(mixed[0]).reliability(bins)


def test_records_are_the_seeds_lines(mixed):
    dump, rows = mixed
    found = list(lb.decisions(dump, dataset="a", step="all").records())
    expected = [row for row in rows if row["dataset"] == "a"]
    assert [record["sample_id"] for record in found] == [0, 1, "two", 3, 4, 5] * 5
    for record, want in zip(found, expected, strict=True):
        assert list(record) == ["sample_id", "p_accept", "p_reject", "gt", "pred", "correct", "step"]
        for name in ("p_accept", "p_reject"):
            assert record[name] == pytest.approx(want[name], rel=1e-5)
        for name in ("gt", "pred", "correct", "step"):
            assert record[name] == want[name]
    both = list(lb.decisions(dump).records())
    assert [record["dataset"] for record in both] == ["b"] * 6 + ["a"] * 6
    assert "step" not in both[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "test"}, "phase is 'test'; the dump has eval, train"),
        ({"dataset": "c"}, "dataset is 'c'; phase eval has 'a', 'b'"),
        ({"step": 9}, "step is 9; of phase eval the nearest recorded steps are 1, 2, 3, 4, 5"),
        ({"step": "first"}, "step is 'first'; give a number, 'last' or 'all'"),
        ({"step": True}, "step is True; give"),
        ({"step": 1.5}, "step is 1.5; give"),
        ({"step": None}, "step is None; give"),
    ],
)
def test_what_there_is_not(mixed, options, message):
    with pytest.raises(InputError, match=message):
        lb.decisions(mixed[0], **options)


def test_dumps_without_decisions(tmp_path):
    with Recorder(tmp_path / "none", V) as rec:
        rec.record(torch.zeros(2, V), torch.tensor([3, 4]))
    with pytest.raises(
        InputError, match=r"recorded without answers; pass answers=\{'accept': ids, .* to the Recorder"
    ):
        lb.decisions(lb.open(tmp_path / "none"))
    with Recorder(tmp_path / "empty", V, answers=ANSWERS) as rec:
        pass
    with pytest.raises(InputError, match="holds no token rows yet"):
        lb.decisions(lb.open(tmp_path / "empty"))
    with pytest.raises(InputError, match="open it first"):
        lb.decisions(tmp_path / "empty")
    with Recorder(tmp_path / "hidden", V, answers=ANSWERS) as rec:
        rec.record(torch.zeros(2, V), torch.tensor([3, 4]), step=5)
    with Recorder(tmp_path / "hidden", V, answers=ANSWERS, resume_from=0):
        pass
    hidden = lb.decisions(lb.open(tmp_path / "hidden"))
    assert (hidden.frame.height, str(hidden)) == (0, "train, no step: no decisions")
    with pytest.raises(InputError, match="phase is 'train'; the dump has no supervised tokens"):
        lb.decisions(lb.open(tmp_path / "hidden"), phase="train")


def test_altered_bytes_are_no_numbers(tmp_path):
    one(tmp_path / "d", torch.zeros(3, V), torch.tensor([3, 4, 9]))
    shard = next((tmp_path / "d" / "tokens").glob("*/*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedDumpError, match="damaged shard"):
        lb.decisions(lb.open(tmp_path / "d"))


def test_progress_is_told_after_every_shard(mixed):
    told: list[tuple[int, int]] = []
    lb.decisions(lb.open(mixed[0].path), progress=lambda done, total: told.append((done, total)))
    n = len(mixed[0].shards("tokens"))
    assert n > 5
    assert told == [(i + 1, n) for i in range(n)]
