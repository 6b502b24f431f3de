"""Small dumps of every kind, and the logits they were recorded from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import logitbox as lb
from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder

V, T, ROWS = 24, 9, 6
COORD = range(12, 24)
NASTY = "<script>alert(1)</script>"
EVAL_STEPS, TRAIN_STEPS = (0, 4, 8), tuple(range(1, 9))
TOKENS = [NASTY, " ", "\n", "", "\u202e", "&amp;", '"', *(f"t{i}" for i in range(7, V))]


@dataclass(frozen=True)
class Batch:
    """What one call of `record` was given, as supervised rows."""

    logits: np.ndarray
    gold: np.ndarray
    sample: np.ndarray

    @property
    def log_p(self) -> np.ndarray:
        shifted = self.logits - self.logits.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    @property
    def correct(self) -> np.ndarray:
        return self.logits.argmax(1) == self.gold

    @property
    def nll(self) -> np.ndarray:
        return -self.log_p[np.arange(len(self.gold)), self.gold]

    @property
    def confidence(self) -> np.ndarray:
        return np.exp(self.log_p.max(1))


@dataclass(frozen=True)
class Recorded:
    """A dump with everything that went into it."""

    dump: Dump
    batches: dict[tuple[str, int], Batch]


def draw_batch(rng: np.random.Generator, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.from_numpy(rng.integers(0, V, (ROWS, T)))
    logits = torch.from_numpy(rng.normal(size=(ROWS, T, V)).astype(np.float32))
    logits[:, :-1].scatter_add_(2, labels[:, 1:, None], torch.full((ROWS, T - 1, 1), sharpness))
    return logits, labels


def as_batch(logits: torch.Tensor, labels: torch.Tensor) -> Batch:
    sample = np.repeat(np.arange(ROWS), T - 1)
    return Batch(logits[:, :-1].reshape(-1, V).double().numpy(), labels[:, 1:].reshape(-1).numpy(), sample)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Two phases, several steps, groups, ordered bins, types, text, scalars, samples; hostile names everywhere."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("full") / "runs-a"
    batches: dict[tuple[str, int], Batch] = {}
    groups, ordered = {"coord": COORD}, {"coord": {"sigma": 1.0}}
    with Recorder(path, TOKENS, 8, groups, ordered, ["coord", "desc", "format"], shard_rows=100) as rec:
        keys = [f"{NASTY}{i}" for i in range(ROWS)]
        rec.samples({"sample": list(range(ROWS)), "key": keys, "source": ["<b>web</b>"] * ROWS})
        for step in range(9):
            for phase, steps in (("train", TRAIN_STEPS), ("eval", EVAL_STEPS)):
                if step not in steps:
                    continue
                logits, labels = draw_batch(rng, 0.4 * step)
                is_coord = labels >= COORD.start
                types = {
                    "coord": is_coord,
                    "desc": ~is_coord & (labels < 6),
                    "format": ~is_coord & (labels >= 6),
                }
                rec.record(
                    logits, labels, step, phase, sample=list(range(ROWS)), input_ids=labels, types=types
                )
                batch = batches[phase, step] = as_batch(logits, labels)
                prefix = "" if phase == "train" else f"{phase}_"
                logged = {
                    f"{prefix}loss": batch.nll.mean() + 0.5,
                    f"{prefix}token_acc": batch.correct.mean(),
                    NASTY: 1.0,
                }
                rec.scalars(step, logged, phase="train")
    return Recorded(open_dump(path), batches)


@pytest.fixture(scope="session")
def reported(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that dump."""
    return lb.report(recorded.dump, tmp_path_factory.mktemp("page") / "report.html")


def _classifier(path: Path) -> None:
    rng = np.random.default_rng(1)
    with Recorder(path, 5) as rec:
        rec.record(
            torch.from_numpy(rng.normal(size=(40, 5))).float(), torch.from_numpy(rng.integers(0, 5, 40))
        )


def _bare(path: Path) -> None:
    rng = np.random.default_rng(2)
    with Recorder(path, V) as rec:
        for step in range(3):
            rec.record(*draw_batch(rng, 1.0), step=step)


def _single_step(path: Path) -> None:
    rng = np.random.default_rng(3)
    with Recorder(path, TOKENS, groups={"coord": COORD}, types=["coord"]) as rec:
        rec.record(*draw_batch(rng, 1.0), step=7, phase="eval")


def _nonfinite(path: Path) -> None:
    rng = np.random.default_rng(4)
    with Recorder(path, TOKENS, groups={"coord": COORD}, types=["coord"]) as rec:
        for step in (1, 2):
            logits, labels = draw_batch(rng, 1.0)
            rec.record(logits * float("nan"), labels, step=step, phase="eval")


def _damaged(path: Path) -> None:
    rng = np.random.default_rng(5)
    with Recorder(path, V, shard_rows=48) as rec:
        for step in range(4):
            rec.record(*draw_batch(rng, 1.0), step=step, phase="eval")
    shards = sorted((path / "tokens").glob("*/*.parquet"))
    assert len(shards) > 1
    shards[0].write_bytes(shards[0].read_bytes()[:-10])
    (shards[0].parent / "000099.parquet").write_bytes(b"stray")
    journal = next((path / "sessions").glob("*/journal.jsonl"))
    lines = [
        line
        for line in journal.read_text().splitlines()
        if "close" not in json.loads(line).get("event", line)
    ]
    journal.write_text("\n".join(lines) + "\n")


def _resumed(path: Path) -> None:
    rng = np.random.default_rng(6)
    with Recorder(path, V) as rec:
        for step in range(4):
            rec.record(*draw_batch(rng, 1.0), step=step)
    with Recorder(path, V, resume_from=2) as rec:
        for step in range(2, 6):
            rec.record(*draw_batch(rng, 1.0), step=step)


def _many(path: Path) -> None:
    """More datasets, types and groups than a page shows, and very long names."""
    rng = np.random.default_rng(7)
    types = [f"type_{i}" for i in range(9)]
    groups = {f"group_{i}": range(i, i + 3) for i in range(5)}
    with Recorder(path, TOKENS, groups=groups, types=types) as rec:
        for step in range(2):
            for dataset in [f"{NASTY}{i}" for i in range(7)]:
                logits, labels = draw_batch(rng, 1.0)
                masks = {name: labels % 9 >= i for i, name in enumerate(types)}
                rec.record(logits, labels, step, "eval", dataset, types=masks, input_ids=labels)


KINDS: dict[str, Callable[[Path], None]] = {
    "classifier": _classifier,
    "bare": _bare,
    "single_step": _single_step,
    "nonfinite": _nonfinite,
    "damaged": _damaged,
    "resumed": _resumed,
    "many": _many,
}


@pytest.fixture(scope="session")
def odd_dump(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dump]:
    """Dumps of every odd kind, by name, made once."""
    made: dict[str, Dump] = {}

    def make(kind: str) -> Dump:
        if kind not in made:
            path = tmp_path_factory.mktemp(kind) / kind
            KINDS[kind](path)
            made[kind] = open_dump(path, damaged="skip")
        return made[kind]

    return make


class Page(HTMLParser):
    """What a test asks of a page: cells by key, attributes, tags, text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.cells: dict[str, str] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.sections: dict[str, str] = {}
        self._stack: list[str] = []
        self._key, self._section = "", ""
        self.feed(text)
        self.close()
        assert not self._stack, f"unclosed {self._stack}"

    VOID = ("meta", "br", "link", "img", "hr", "input")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        named = dict(attrs)
        if tag in ("td", "th", "li", "dt", "dd", "p", "small", "span"):
            self.sections[self._section] = self.sections.get(self._section, "") + " "
        if tag not in self.VOID:
            self._stack.append(tag)
        if tag == "td":
            self._key = named.get("data-key") or ""
        if tag == "section":
            self._section = named.get("aria-labelledby") or ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._stack, f"stray </{tag}>"
        assert self._stack.pop() == tag
        if tag == "td":
            self._key = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if self._key and data.strip() and self._key not in self.cells:
            self.cells[self._key] = data.strip()

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _, _ in self.attributes}


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Page]:
    return Page
