"""A walk through the headings of seed 002: every number, range, pattern and action is in the profile.

The guide itself is not in the repository; its headings and numbers are written out here. Ranges that the guide gives for
8 classes must come out to 1e-12.
"""

from __future__ import annotations

import pytest
from doctor_runs import PROFILES, finding, series

from logitbox.analysis.doctor.profile import Pattern, keys_of

PROFILE = PROFILES["classification"]
RULES = {rule.name: rule for rule in PROFILE.rules}
KNOWN = {"C": 8.0, **PROFILE.constants}

# Headings without rules of their own, and where what they hold is.
CHAPTERS = {
    "Core Performance Metrics",
    "Training Stability Metrics",
    "Model Confidence & Uncertainty",
    "Data Quality Indicators",
    "Confusion Analysis",
    "Early Stopping Indicators",
    "Diagnostic Patterns",
    "Action Items Based on Metrics",
    "Recommended Monitoring Dashboard",
}

# heading: [(rule, its part, number)]. Parts: "BAND low", "BAND high", or a field of the check.
NUMBERS = {
    "Accuracy Metrics": [
        ("val-accuracy", "early training low", 0.125),
        ("val-accuracy", "early training high", 0.25),
        ("val-accuracy", "below the random baseline high", 0.125),
        ("val-accuracy", "mid training low", 0.35),
        ("val-accuracy", "mid training high", 0.55),
        ("val-accuracy", "good model low", 0.60),
        ("val-accuracy", "good model high", 0.75),
        ("val-accuracy", "excellent low", 0.75),
        ("top2-confused", "as expected low", 0.15),
        ("top2-confused", "as expected high", 0.25),
        ("top2-accuracy", "good low", 0.70),
        ("top2-confused", "somewhat high high", 0.30),
        ("top3-gap", "as expected low", 0.25),
        ("top3-gap", "as expected high", 0.35),
        ("top3-accuracy", "good low", 0.80),
        ("top3-accuracy", "at the usual ceiling low", 0.90),
        ("top3-accuracy", "at the usual ceiling high", 0.95),
    ],
    "F1 Scores": [
        ("macro-f1-gap", "close high", 0.05),
        ("macro-f1-gap", "within 5-10 points high", 0.10),
        ("macro-f1-gap", "drifting apart high", 0.15),
    ],
    "Loss Standard Deviation (loss_std)": [
        ("loss-std", "exploring low", 0.3),
        ("loss-std", "exploring high", 0.8),
        ("loss-std", "decreasing low", 0.1),
        ("loss-std", "decreasing high", 0.3),
        ("loss-std", "stable low", 0.05),
        ("loss-std", "stable high", 0.2),
        ("loss-std-severe", "above", 1.0),
        ("loss-std-never-low", "above", 0.5),
    ],
    "Gradient Norms": [
        ("grad-norm", "normal low", 0.2),
        ("grad-norm", "normal high", 0.4),
        ("grad-norm", "early training, may reach the clip value high", 0.5),
        ("grad-norm", "small low", 0.01),
        ("grad-norm-std", "healthy low", 0.05),
        ("grad-norm-std", "healthy high", 0.15),
        ("grad-norm-std", "somewhat high high", 0.3),
        ("grad-norm-std", "unstable optimization high", 0.5),
    ],
    "Average Entropy (avg_entropy)": [
        ("avg-entropy", "early training low", 1.5),
        ("avg-entropy", "early training high", 2.0),
        ("avg-entropy", "mid training low", 0.8),
        ("avg-entropy", "mid training high", 1.5),
        ("avg-entropy", "well-trained low", 0.3),
        ("avg-entropy", "well-trained high", 0.8),
    ],
    "High Entropy Samples": [],
    "Speaker Consistency": [
        ("speaker-consistency", "at the random baseline high", 0.125),
        ("speaker-consistency", "good generalization low", 0.40),
        ("speaker-consistency", "good generalization high", 0.60),
        ("speaker-consistency", "reasonable low", 0.60),
        ("speaker-consistency", "reasonable high", 0.75),
        ("speaker-consistency", "rather high low", 0.75),
        ("speaker-consistency", "rather high high", 0.85),
        ("speaker-consistency", "suspicious low", 0.85),
    ],
    "Per-Dataset Performance": [("dataset-behind", "alike high", 0.20)],
    "Duration Performance Buckets": [],
    "Top Confusion Pairs": [
        ("top-confusions", "no pair above 10% high", 0.10),
        ("unexpected-confusions", "at most 10% high", 0.10),
    ],
    "Learning Curve Metrics": [
        ("improvement-rate", "healthy low", 0.02),
        ("improvement-rate", "healthy high", 0.05),
    ],
    "When to Stop Training": [],
    "Healthy Training at Epoch 10": [],
    "Mislabeled Data": [],
    "Memorizing Speakers": [],
    "Insufficient Model Capacity": [],
    "If loss_std is high (>0.5 after epoch 10)": [
        ("loss-std-high", "above", 0.5),
        ("loss-std-high", "from_epoch", 10),
    ],
    "If gradients are unstable (grad_norm_std > 0.3)": [("grad-unstable", "above", 0.3)],
    "If speaker_consistency > 85%": [],
    "If specific regions consistently confused": [],
    "If model plateaus early": [],
}

# rule: {key: the guide's example}
PATTERNS = {
    "healthy": {
        "train/loss_std": 0.15,
        "train/grad_norm": 0.35,
        "train/grad_norm_std": 0.08,
        "val/speaker_consistency": 0.65,
        "val/accuracy": 0.55,
        "val/avg_entropy": 1.0,
    },
    "mislabeled-data": {
        "train/loss_std": 0.95,
        "train/grad_norm": 0.5,
        "train/grad_norm_std": 0.4,
        "val/speaker_consistency": 0.45,
        "val/accuracy": 0.35,
    },
    "memorizing-speakers": {
        "train/loss_std": 0.05,
        "train/grad_norm": 0.1,
        "val/speaker_consistency": 0.92,
        "val/accuracy": 0.38,
        "val/avg_entropy": 0.15,
    },
    "insufficient-capacity": {
        "train/loss_std": 0.4,
        "train/accuracy": 0.45,
        "val/accuracy": 0.42,
        "val/avg_entropy": 1.8,
    },
}

# heading: for each action, in order, words of it
ACTIONS = {
    "If loss_std is high (>0.5 after epoch 10)": [
        "high-entropy samples mislabeling",
        "per_dataset_accuracy problematic sources",
        "filter low quality audio",
        "removing datasets poor performance",
    ],
    "If gradients are unstable (grad_norm_std > 0.3)": [
        "reduce learning rate 50%",
        "batch size gradient_accumulation_steps",
        "gradient clipping enabled",
        "data loading",
    ],
    "If speaker_consistency > 85%": [
        "more speakers per region",
        "audio augmentation pitch shift speed perturbation",
        "increase dropout rate",
        "diversity training batches",
        "mixing speakers within batches",
    ],
    "If specific regions consistently confused": [
        "more samples boundary states",
        "region mapping logic",
        "merging highly confused",
        "collect targeted data problem",
    ],
    "If model plateaus early": [
        "increase learning rate gradients stable",
        "unfreeze more layers capacity",
        "hidden_dim classifier",
        "larger base model wav2vec2-large",
        "more diverse training data",
    ],
}

STAGES = {"early": (1, 5), "mid": (5, 15), "late": (15, float("inf"))}
DASHBOARD = [
    ("val/loss", "Primary early stopping metric"),
    ("val/macro_f1", "Balanced performance indicator"),
    ("train/loss_std", "Data quality monitor"),
    ("val/speaker_consistency", "Overfitting detector"),
    ("val/per_dataset_accuracy/*", "Data source health"),
    ("val/top_confusions/*", "Problem region pairs"),
]


def part(rule, path):
    """A number of a rule, with 8 classes and the guide's clipping."""
    check = RULES[rule].check
    if path in ("above", "below"):
        return getattr(check, path).value(KNOWN)
    if path == "from_epoch":
        return check.from_epoch
    name, end = path.rsplit(" ", 1)
    [band] = [band for band in check.bands if band.name == name]
    return getattr(band, end).value(KNOWN)


def conditions(rule):
    """Of a pattern: key to condition."""
    return {condition.check.value.text: condition for condition in RULES[rule].check.conditions}


@pytest.mark.parametrize("heading", NUMBERS)
def test_heading_has_rules(heading):
    names = {rule.name for rule in PROFILE.rules if rule.heading == heading}
    assert names
    assert {rule for rule, _, _ in NUMBERS[heading]} <= names


def test_no_rule_has_a_heading_that_is_not_there():
    assert {rule.heading for rule in PROFILE.rules} - {""} == set(NUMBERS)


@pytest.mark.parametrize(("rule", "path", "number"), [n for numbers in NUMBERS.values() for n in numbers])
def test_number(rule, path, number):
    assert part(rule, path) == pytest.approx(number, abs=1e-12, rel=0)


@pytest.mark.parametrize(
    ("rule", "key", "number"),
    [(r, key, number) for r, found in PATTERNS.items() for key, number in found.items()],
)
def test_example_of_a_pattern(rule, key, number):
    found = conditions(rule)
    if (rule, key) == ("memorizing-speakers", "val/speaker_consistency"):
        condition = found["val/speaker_consistency - val/accuracy"]
        assert condition.seed.value(KNOWN) == pytest.approx(0.92 - 0.38, abs=1e-12)
        return
    seeded = [c for c in RULES[rule].check.conditions if c.check.value.text == key and c.seed is not None]
    if (rule, key) == ("insufficient-capacity", "val/accuracy"):  # similar to train
        assert found["|train/accuracy - val/accuracy|"].seed.value(KNOWN) == pytest.approx(
            0.45 - 0.42, abs=1e-12
        )
        return
    assert [c.seed.value(KNOWN) for c in seeded] == pytest.approx([number], abs=1e-12, rel=0)


@pytest.mark.parametrize("rule", PATTERNS)
def test_the_guides_example_shows_its_pattern_and_no_other(rule):
    values = {key: [number] for key, number in PATTERNS[rule].items()}
    if rule == "insufficient-capacity":
        values["learning/improvement_rate"] = [0.0005]  # all metrics plateau early
    run = series(values, start=10)
    said = {name: finding(PROFILE, name, run).status for name in PATTERNS}
    shown = {name for name, status in said.items() if status == ("pass" if name == "healthy" else "fail")}
    assert shown == {rule}


@pytest.mark.parametrize("heading", ACTIONS)
def test_actions(heading):
    [rule] = [rule for rule in PROFILE.rules if rule.heading == heading]
    assert len(rule.actions) == len(ACTIONS[heading])
    for action, words in zip(rule.actions, ACTIONS[heading], strict=True):
        for word in words.split():
            assert word.casefold() in action.casefold()


def test_all_headings_with_actions_are_walked():
    assert {heading for heading in NUMBERS if heading.startswith("If ")} == set(ACTIONS)
    assert not CHAPTERS & set(NUMBERS)


def test_stages():
    assert {name: (stage.low, stage.high) for name, stage in PROFILE.stages.items()} == STAGES


def test_dashboard():
    assert [(shown.key, shown.role) for shown in PROFILE.dashboard] == DASHBOARD


def test_clip():
    assert PROFILE.constants == {"clip": 0.5}


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("top-confusions", "Mid-Atlantic ↔ South Atlantic"),
        ("top-confusions", "Upper Midwest ↔ Lower Midwest"),
        ("top-confusions", "Deep South ↔ South Atlantic"),
        ("unexpected-confusions", "New England ↔ Deep South"),
        ("unexpected-confusions", "West ↔ New York"),
    ],
)
def test_pairs(rule, named):
    assert named in RULES[rule].leave_out + RULES[rule].only


@pytest.mark.parametrize("source", ["TIMIT", "CommonVoice", "CORAAL"])
def test_sources(source):
    [rule] = [r for r in PROFILE.rules if f"val/per_dataset_accuracy/{source}" in keys_of(r.check)]
    assert rule.heading == "Per-Dataset Performance"


def test_spike_of_the_guide():
    jump = series({"train/loss_std": [0.2, 0.2, 0.2, 1.5]})
    assert finding(PROFILE, "loss-std-spike", jump).status == "warn"
    assert (
        finding(PROFILE, "loss-std-spike", series({"train/loss_std": [0.2, 0.2, 0.2, 0.6]})).status == "pass"
    )


def test_overfit_entropy():
    assert conditions("overconfident")["val/avg_entropy"].check.bands[0].high.value(KNOWN) == pytest.approx(
        0.2, abs=1e-12
    )


def test_confusion_signs_of_suspicion():
    assert conditions("consistency-unearned")["val/speaker_consistency"].check.above.value(KNOWN) == 0.85


def test_learning_curve():
    plateau = conditions("plateaued")["|learning/improvement_rate|"].check
    assert plateau.below.value(KNOWN) == 0.001
    assert plateau.points > 1
    assert (
        conditions("improvement-start")["learning/improvement_rate"].check.bands[0].high.value(KNOWN) == 0.02
    )
    assert RULES["improvement-negative"].check.below.value(KNOWN) <= 0


def test_near_zero():
    assert conditions("grad-norm-near-zero")["train/grad_norm"].check.below.value(KNOWN) == 0.01
    assert RULES["grad-norm-at-max"].check.above.value(KNOWN) == pytest.approx(0.5, rel=0.03)


def test_when_to_stop():
    found = conditions("early-stopping")
    assert isinstance(RULES["early-stopping"].check, Pattern)
    assert RULES["early-stopping"].check.least == len(found) == 4  # all of them
    loss, accuracy = found["val/loss"].check, found["val/accuracy"].check
    assert (loss.direction, loss.points, loss.each, loss.per_epoch) == ("rising", 3, True, True)
    assert (accuracy.direction, accuracy.points, accuracy.per_epoch) == ("flat", 5, True)
    assert accuracy.by.value(KNOWN) == 0.005
    assert found["train/loss_std"].check.bands[0].high.value(KNOWN) == 0.1
    assert found["val/loss_std"].check.bands[0].low.value(KNOWN) == 0.5


# heading: rule, words of the guide that its title or a reason holds; signs that the guide has words for
SIGNS = {
    "Accuracy Metrics": [
        ("val-accuracy", "below the random baseline"),
        ("top2-close", "top 2 top 1"),
        ("top2-confused", "specific pairs of classes"),
    ],
    "F1 Scores": [("macro-f1-gap", "severe class imbalance")],
    "Loss Standard Deviation (loss_std)": [
        ("loss-std-severe", "severe labeling issues corrupted samples consistently"),
        ("loss-std-spike", "sudden mislabeled out of distribution"),
        ("loss-std-never-low", "mixed data quality studio phone"),
        ("loss-std-rising", "increases over time memorises edge cases"),
    ],
    "Gradient Norms": [
        ("grad-norm", "spikes to the clip value are normal early in training"),
        ("grad-norm-at-max", "consistently at max learning rate is too high"),
        ("grad-norm-near-zero", "learning rate is too low saturated"),
        ("grad-norm-std", "unstable explode vanish"),
    ],
    "Average Entropy (avg_entropy)": [("overconfident", "overfit")],
    "High Entropy Samples": [("uncertain-samples", "top 10 ambiguous poor quality mislabeled")],
    "Speaker Consistency": [("speaker-consistency", "suspicious")],
    "Per-Dataset Performance": [
        ("dataset-timit", "TIMIT clean controlled"),
        ("dataset-commonvoice", "CommonVoice crowdsourced variable"),
        ("dataset-coraal", "CORAAL conversational natural lower"),
        ("dataset-behind", "more than 20% below quality labeling"),
        ("datasets-low", "similar but low capacity"),
        ("dataset-overfit", "high train, low val overfitting"),
    ],
    "Duration Performance Buckets": [
        ("duration-shortest", "0-5s fewest cues"),
        ("duration-second", "moderate improvement 5-10s"),
        ("duration-best", "10-15s best"),
        ("duration-longest", "15+s similar or slightly better"),
        ("duration-same", "short same as long non-accent features"),
        ("duration-decreases", "decreases with length longer context"),
        ("duration-jumps", "huge jumps inconsistent preprocessing"),
    ],
    "Top Confusion Pairs": [
        ("top-confusions", "more than 10%"),
        ("unexpected-confusions", "problem very different"),
    ],
    "Learning Curve Metrics": [
        ("improvement-start", "0.02-0.05 starts"),
        ("improvement-rate", "smoothly"),
        ("improvement-decreasing", "positive but decreasing"),
        ("plateaued", "0.001"),
        ("improvement-negative", "overfitting negative"),
    ],
    "When to Stop Training": [("early-stopping", "all three")],
    "Healthy Training at Epoch 10": [("healthy", "epoch 10")],
    "Mislabeled Data": [("mislabeled-data", "costlier gradients confused")],
    "Memorizing Speakers": [("memorizing-speakers", "sure wrong")],
    "Insufficient Model Capacity": [("insufficient-capacity", "cannot fit unsure no longer getting better")],
    "If loss_std is high (>0.5 after epoch 10)": [("loss-std-high", "0.5 after epoch 10")],
    "If gradients are unstable (grad_norm_std > 0.3)": [("grad-unstable", "0.3")],
    "If speaker_consistency > 85%": [("consistency-unearned", "85%")],
    "If specific regions consistently confused": [("confused-consistently", "consistently confused")],
    "If model plateaus early": [("plateaus-early", "early")],
}


@pytest.mark.parametrize("heading", NUMBERS)
def test_every_sign_has_its_rule(heading):
    for name, words in SIGNS[heading]:
        rule = RULES[name]
        assert rule.heading == heading
        told = (
            f"{rule.title} {rule.why} {' '.join(b.name for b in getattr(rule.check, 'bands', ()))}".casefold()
        )
        assert all(word in told for word in words.casefold().split()), (name, told)


def test_every_rule_of_a_heading_is_walked():
    walked = {(heading, rule) for heading, signs in SIGNS.items() for rule, _ in signs}
    walked |= {(heading, rule) for heading, numbers in NUMBERS.items() for rule, _, _ in numbers}
    assert walked == {(rule.heading, rule.name) for rule in PROFILE.rules if rule.heading}


def test_the_healthy_example_is_that_of_epoch_10():
    assert {c.check.at for c in RULES["healthy"].check.conditions} == {10.0}
