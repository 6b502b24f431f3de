"""The demo's evaluation set, and a pass over it under teacher forcing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from logitbox.demo.logs import LogWindow
from logitbox.demo.model import DigitReader
from logitbox.demo.scenes import Digits, SceneConfig, Scenes, draw_scenes
from logitbox.demo.tokens import COORD_IDS, DIGIT_NAMES, TextBatch, collate, decode, encode
from logitbox.dumps.losses import composite_loss
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.spec import OrderedSpec

_BATCH = 64
_SOURCES = {1: "one digit", 2: "two digits"}


@dataclass(frozen=True)
class EvalResult:
    """One pass: the keys a trainer logs, and the two figures that say whether the model learned.

    Attributes:
        logged: ``eval_loss``, ``eval_token_acc`` and the parts of the coordinate loss.
        name_accuracy: share of digits of which every name token is the arg-max, in 0-1.
        coord_error: mean |expected bin - label|, in bins of 1000.
    """

    logged: dict[str, float]
    name_accuracy: float
    coord_error: float


def draw_eval_scenes(digits: Digits, n_scenes: int, rng: np.random.Generator, config: SceneConfig) -> Scenes:
    """Draw scenes, half with one digit and half with two, in which no digit image occurs twice.

    Without repeats the scenes are independent of each other, so resampling scenes gives fair intervals.
    """
    rows = [int(row) for row in rng.permutation(len(digits.names))[: digits_needed(n_scenes)]]
    picks = [(rows.pop(),) if index % 2 else (rows.pop(), rows.pop()) for index in range(n_scenes)]
    return draw_scenes(digits, picks, rng, config)


def digits_needed(n_scenes: int) -> int:
    """Return how many digit images ``n_scenes`` evaluation scenes use up."""
    return n_scenes + (n_scenes + 1) // 2


def sample_columns(scenes: Scenes) -> dict[str, list[int] | list[str]]:
    """Describe the evaluation scenes as the columns of the ``samples`` table; ``sample`` is the row number."""
    names = [[DIGIT_NAMES[item.digit] for item in items] for items in scenes.items]
    return {
        "sample": list(range(len(names))),
        "key": [f"eval-{index:04d}" for index in range(len(names))],
        "source": [_SOURCES[len(scene)] for scene in names],
        "digits": [" ".join(scene) for scene in names],
        "text": [decode(encode(items)) for items in scenes.items],
    }


@torch.no_grad()
def evaluate(
    model: DigitReader, scenes: Scenes, step: int, coord_loss: OrderedSpec, recorder: Recorder
) -> EvalResult:
    """Run the model over all scenes and record every supervised token."""
    model.eval()
    window, names, errors = LogWindow(), [], []
    for rows, text in _batches(scenes):
        logits = model(scenes.images[rows], text.input_ids)
        parts = composite_loss(logits, text.labels, COORD_IDS, coord_loss)
        window.add(parts, logits, text.labels)
        names.append(_names_right(logits, text))
        errors.append(_coord_errors(logits, text, coord_loss.temperature))
        recorder.record(
            logits,
            text.labels,
            step=step,
            phase="eval",
            dataset="",
            sample=rows,
            input_ids=text.input_ids,
            attention_mask=text.attention_mask,
            types=text.types,
            loss=parts.total,
        )
    model.train()
    logged = {f"eval_{key}": value for key, value in window.means().items()}
    logged["eval_token_acc"] = window.pooled_accuracy()
    return EvalResult(logged, float(torch.cat(names).mean()), float(torch.cat(errors).mean()))


def _batches(scenes: Scenes) -> Iterator[tuple[Tensor, TextBatch]]:
    for rows in torch.arange(len(scenes.items)).split(_BATCH):
        yield rows, collate([scenes.items[int(row)] for row in rows])


def _names_right(logits: Tensor, text: TextBatch) -> Tensor:
    """Return float32 ``[digits]``: 1 where all tokens of a digit's name are the arg-max, else 0."""
    desc = text.types["desc"][:, 1:]
    starts = desc & ~text.types["desc"][:, :-1]
    # Numbering the names in reading order lets one scatter ask "were all of its tokens right?".
    name = starts.flatten().cumsum(0)[desc.flatten()] - 1
    right = (logits[:, :-1].argmax(dim=-1) == text.labels[:, 1:])[desc].float()
    return torch.ones(int(starts.sum())).scatter_reduce(0, name, right, "amin")


def _coord_errors(logits: Tensor, text: TextBatch, temperature: float) -> Tensor:
    """Return float32 ``[coord tokens]``: |expected bin - label| in bins."""
    coord = text.types["coord"][:, 1:]
    inside = logits[:, :-1][coord][:, COORD_IDS.start : COORD_IDS.stop] / temperature
    expected = inside.softmax(dim=-1) @ torch.arange(len(COORD_IDS), dtype=inside.dtype)
    return (expected - (text.labels[:, 1:][coord] - COORD_IDS.start)).abs()
