"""The page says what was recorded, whatever was recorded, and needs nothing else."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import logitbox as lb
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError

NASTY = "<script>alert(1)</script>"
ODD = ("classifier", "bare", "single_step", "nonfinite", "damaged", "resumed", "many")


@pytest.fixture(scope="module")
def text(reported):
    return reported.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text, parse):
    return parse(text)


def of(recorded, phase):
    return recorded.batches[phase, 8]


@pytest.mark.parametrize(("phase", "prefix"), [("train", ""), ("eval", "eval_")])
def test_values_are_those_of_numpy(phase, prefix, page, recorded):
    batch = of(recorded, phase)
    log_p, cells = batch.log_p, page.cells
    inside = batch.gold >= 12
    expected = {
        "token_acc": batch.correct.mean(),
        "nll": batch.nll.mean(),
        "exp_nll": np.exp(batch.nll.mean()),
        "full_entropy": -(np.exp(log_p) * log_p).sum(1).mean(),
        "confidence": batch.confidence.mean(),
        "coord_token_acc": batch.correct[inside].mean(),
        "text_token_acc": batch.correct[~inside].mean(),
        "desc_token_frac": (batch.gold < 6).mean(),
        "coord_monitor/flip_coord_to_noncoord": (batch.logits.argmax(1) < 12)[inside].mean(),
        "coord_monitor/coord_vocab_mass_at_gt_text": np.exp(log_p[:, 12:]).sum(1)[~inside].mean(),
    }
    shown = {key: float(cells[prefix + key].replace(",", "")) for key in expected}
    assert shown == pytest.approx(expected, abs=6e-5)
    assert cells[f"{prefix}n_tokens"] == str(len(batch.gold))
    assert cells[f"{prefix}n_nonfinite"] == "0"


def test_every_metric_is_listed(page, recorded):
    assert set(page.cells) == set(lb.metrics(recorded.dump).frame["key"])


def test_head_speaks_of_the_last_evaluation(page, recorded):
    batch = of(recorded, "eval")
    glance = page.sections["glance"]
    assert "At a glance: eval, step 8" in glance
    assert f"accuracy {batch.correct.mean():.4f}, nll {batch.nll.mean():.4f} nats (perplexity " in glance
    assert "Nothing was left out" in glance
    assert "runs-a" in page.text


def test_calibration_section(page, recorded):
    ece = lb.calibration(recorded.dump, by="step").frame
    row = [r for r in ece.iter_rows(named=True) if (r["phase"], r["step"], r["type"]) == ("eval", 8, "")]
    section = page.sections["calibration"]
    assert f"ECE {row[0]['ece']:.4f} (15 bins) over 48 tokens" in section
    assert "train" not in section
    gap, low, high = (
        row[0][name] for name in ("overconfidence", "overconfidence_low", "overconfidence_high")
    )
    assert f"{abs(gap):.4f} [" in section
    assert f"{abs(low):.4f}, " in section
    assert (
        f"{abs(high):.4f}] {row[0]['ece']:.4f} [{row[0]['ece_low']:.4f}, {row[0]['ece_high']:.4f}]" in section
    )
    assert "Calibration over steps" in page.text


def test_types_that_are_off_by_more_than_chance_are_named(parse, tmp_path):
    """Over-confident coords, calibrated others: 60 samples of each."""
    rng = np.random.default_rng(0)
    n, vocab = 600, 10
    p = rng.uniform(0.4, 0.95, n)
    top = np.log(p / (1 - p) * (vocab - 1))
    best = rng.integers(0, vocab, n)
    logits = np.zeros((n, vocab), np.float32)
    logits[np.arange(n), best] = top
    is_coord = np.arange(n) % 2 == 0
    right = rng.random(n) < np.where(is_coord, 0.3, p)
    labels = torch.from_numpy(np.where(right, best, (best + 1) % vocab))
    types = {"coord": torch.from_numpy(is_coord), "text": torch.from_numpy(~is_coord)}
    with Recorder(tmp_path / "d", vocab, types=["coord", "text"]) as rec:
        rec.record(
            torch.from_numpy(logits), labels, phase="eval", sample=(np.arange(n) // 10).tolist(), types=types
        )
    page = parse(lb.report(lb.open(tmp_path / "d"), tmp_path / "r.html").read_text(encoding="utf-8"))
    section = page.sections["calibration"]
    named = section[section.index("Off by more than chance") :]
    bins, coord = np.minimum((p * 15).astype(int), 14), is_coord
    ece = abs(np.bincount(bins[coord], (right - p)[coord])).sum() / coord.sum()
    assert f"coord ({ece:.4f})" in named
    assert "text" not in named.split(").")[0]


def test_logged_values_stand_beside_those_of_the_logits(page, recorded):
    batch = of(recorded, "eval")
    section = " ".join(page.sections["logged"].split())
    nll, accuracy = batch.nll.mean(), batch.correct.mean()
    assert f"eval_loss eval_nll 8 {nll + 0.5:.4f} {nll:.4f} +0.5 " in section
    assert re.search(rf"eval_token_acc 8 {accuracy:.4f} {accuracy:.4f} \S+ ", section + " ")
    assert "loss nll 8" in section
    assert f"with no metric of that name: {NASTY}" in section


def test_hostile_text_stays_text(text, page):
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert NASTY not in text
    assert "\u202e" not in text
    shown = "".join(page.text)
    assert f"sample {NASTY}" in shown
    assert "source <b>web</b>" in shown


def test_needs_nothing_from_elsewhere(text, page):
    for tag, name, value in page.attributes:
        if name in ("href", "xlink:href"):
            assert value.startswith("#"), (tag, value)
        assert not name.startswith("on")
        assert name not in ("src", "srcset", "data", "action", "poster")
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert set(re.findall(r"https?:[^\"'\s<]*", text)) == {"http://www.w3.org/2000/svg"}


def test_links_and_ids_hold_together(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert links <= set(ids)
    named = {value for _, name, value in page.attributes if name == "aria-labelledby"}
    assert named <= set(ids)
    assert ("html", "lang", "en") in page.attributes
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(pictures) == sum(tag == "svg" and name == "viewbox" for tag, name, _ in page.attributes)
    assert all(pictures)


def test_same_dump_same_bytes(recorded, reported, tmp_path):
    with ThreadPoolExecutor(2) as executor:
        again = lb.report(recorded.dump, tmp_path / "again.html", executor=executor)
    assert again.read_bytes() == reported.read_bytes()


def test_progress_and_title(odd_dump, tmp_path, parse):
    told: list[tuple[int, int]] = []
    target = lb.report(
        odd_dump("bare"),
        tmp_path / "r.html",
        title="A & <B>",
        progress=lambda done, n: told.append((done, n)),
    )
    n = 2 * len(odd_dump("bare").shards("tokens"))  # once for the metrics, once for calibration
    assert told == [(i + 1, n) for i in range(n)]
    assert "A & <B>" in parse(target.read_text(encoding="utf-8")).text
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]


def test_n_tokens(odd_dump, tmp_path, page, parse):
    few = parse(lb.report(odd_dump("bare"), tmp_path / "few.html", n_tokens=3).read_text(encoding="utf-8"))
    assert few.sections["tokens"].count("rank of gold") == 3
    assert page.sections["tokens"].count("rank of gold") == 20
    for n in (0, 201):
        with pytest.raises(InputError, match="allowed are 1 to 200"):
            lb.report(odd_dump("bare"), tmp_path / "no.html", n_tokens=n)


def test_paths_that_cannot_be_written(odd_dump, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        lb.report(odd_dump("bare"), tmp_path)
    with pytest.raises(InputError, match="does not exist; create the folder"):
        lb.report(odd_dump("bare"), tmp_path / "a" / "b.html")


def test_nothing_is_left_behind_when_writing_fails(odd_dump, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    dump = odd_dump("bare")  # made before anything fails
    monkeypatch.setattr("pathlib.Path.replace", fail)
    (tmp_path / "r.html").write_text("old")
    with pytest.raises(InputError, match="No space left on device"):
        lb.report(dump, tmp_path / "r.html")
    assert [file.name for file in tmp_path.iterdir()] == ["r.html"]
    assert (tmp_path / "r.html").read_text() == "old"


@pytest.fixture(scope="module")
def odd_page(odd_dump, parse, tmp_path_factory):
    made = {}

    def make(kind):
        if kind not in made:
            target = lb.report(odd_dump(kind), tmp_path_factory.mktemp("odd") / f"{kind}.html")
            assert target.stat().st_size < 600_000
            made[kind] = parse(target.read_text(encoding="utf-8"))
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ODD)
def test_odd_dumps_have_pages(kind, odd_page):
    page = odd_page(kind)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert page.tags.isdisjoint({"script", "b"})
    assert {
        "glance",
        "metrics",
        "curves",
        "explain",
        "calibration",
        "flips",
        "tokens",
        "logged",
        "recording",
    } <= set(page.sections)


def test_a_classifier(odd_page):
    page = odd_page("classifier")
    assert page.cells["n_tokens"] == "40"
    assert "curves need two" in page.sections["curves"]
    assert "No vocabulary groups were recorded" in page.sections["flips"]
    assert "own log was not recorded" in page.sections["logged"]
    assert "shown by their ids" in page.sections["tokens"]


def test_a_dump_of_non_finite_tokens_only(odd_page):
    page = odd_page("nonfinite")
    glance = page.sections["glance"]
    assert "96 tokens with NaN or infinite values" in glance
    assert page.cells["eval_token_acc"] == "–"
    assert page.cells["eval_n_nonfinite"] == "48"
    assert "no supervised tokens with finite values" in page.sections["metrics"]


def test_damage_strays_and_a_killed_writer_are_told(odd_page):
    glance = odd_page("damaged").sections["glance"]
    assert re.search(r"Damaged shard tokens/\S+ \(truncated: \d+ of \d+ bytes\): 48 rows not read", glance)
    assert "1 file without a journal line" in glance
    assert "1 session without an end, killed or still recording" in glance
    assert "Nothing was left out" not in glance


def test_rows_replaced_by_a_resumed_run_are_counted(odd_page):
    page = odd_page("resumed")
    assert (
        "96 training rows of earlier sessions, replaced when training was resumed" in page.sections["glance"]
    )
    assert "resumed from step" in page.sections["recording"]


def test_long_lists_are_capped_and_said_to_be(odd_page):
    page = odd_page("many")
    glance = page.sections["glance"]
    assert "This page shows 6 phases and datasets; not shown: " in glance
    assert "This page shows the 12 token types with most tokens, of 14" in glance
    assert "the 16 highest of" in page.sections["flips"]
    assert "Drawn: the 1 of " in page.sections["calibration"]


def test_long_runs_are_thinned_and_said_to_be(tmp_path, parse, monkeypatch):
    monkeypatch.setattr("logitbox.reports.curves.MAX_POINTS", 10)
    with Recorder(tmp_path / "long", 5) as rec:
        for step in range(60):
            rec.record(torch.randn(3, 5), torch.tensor([0, 1, 2]), step=step)
            rec.scalars(step, {"loss": 1.0})
    target = lb.report(lb.open(tmp_path / "long"), tmp_path / "long.html")
    section = parse(target.read_text(encoding="utf-8")).sections["curves"]
    assert "Mean nll (TFCE) by phase; lines thinned to 10 of 60 steps" in section
    assert "40 of 60 recorded steps" in section


def test_passes_at_one_step_are_pooled_and_said_to_be(tmp_path, parse):
    with Recorder(tmp_path / "twice", 5) as rec:
        for _ in range(2):
            rec.start_pass("eval")
            rec.record(torch.randn(3, 5), torch.tensor([0, 1, 2]), step=1, phase="eval")
    page = parse(lb.report(lb.open(tmp_path / "twice"), tmp_path / "t.html").read_text(encoding="utf-8"))
    assert page.cells["eval_n_tokens"] == "6"
    assert "all passes over the data at that step together" in page.sections["metrics"]


@pytest.mark.parametrize("phase", ["eval/math", "a\nb\x1b[31m", "x: y", "n_tokens", "a/n_tokens"])
def test_any_phase_and_dataset(phase, parse, tmp_path):
    """Keys are found by the phase, whatever it is called; control characters neither break nor hide in the page."""
    torch.manual_seed(0)
    vocabulary = {"vocab": 24, "groups": {"coord": range(12, 24)}, "types": ["desc"]}
    with Recorder(tmp_path / "d", **vocabulary) as rec:
        for step in range(2):
            for dataset in ("", phase):
                labels = torch.randint(0, 24, (3, 8))
                rec.record(torch.randn(3, 8, 24), labels, step, phase, dataset, types={"desc": labels < 6})
        rec.samples({"sample": [0], "dataset": [phase], "key": [phase], "source": [phase]})
        rec.scalars(1, {f"{phase}_loss": 1.0}, phase=phase)
    dump = lb.open(tmp_path / "d")
    text = lb.report(dump, tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    page = parse(text)
    escaped = phase.replace("\n", "↵").replace("\x1b", "\\u001b")
    assert {f"{escaped}_token_acc", f"{escaped}_coord_nll"} <= set(page.cells)
    assert f"At a glance: {escaped}" in page.sections["glance"]
    assert page.sections["glance"].count(f"Calibration {escaped}: ") == 0
    for keys in ("nll", [f"{phase}_nll"]):
        assert lb.metrics(dump, by=["step", "dataset"]).plot(keys=keys).get_lines()
    lb.flips(dump).plot()


def test_repeated_rows_and_infinite_losses_are_told(parse, tmp_path):
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 8, 24), torch.randint(0, 24, (3, 8))
    labels[:, 1] = 14
    logits[1, 0, 13] = -torch.inf
    flags = {"duplicate": (torch.arange(3) == 2)[:, None].expand(3, 8)}
    with Recorder(tmp_path / "d", 24, groups={"coord": range(12, 24)}, ordered={"coord": {}}) as rec:
        rec.record(logits, labels, phase="eval", flags=flags)
    page = parse(lb.report(lb.open(tmp_path / "d"), tmp_path / "r.html").read_text(encoding="utf-8"))
    glance = page.sections["glance"]
    assert "7 tokens of rows that a sampler repeated" in glance
    assert "1 token whose coord loss is NaN or infinite" in glance
    assert "7 repeated by a sampler left out" in glance
    assert "21 supervised tokens" in " ".join(page.text)
    assert page.cells["eval_n_duplicate"] == "7"
    assert page.cells["eval_coord_softce_w1/n_nonfinite"] == "1"
