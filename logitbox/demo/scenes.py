"""Pictures: one or two handwritten digits, drawn at random places and sizes, with exact boxes."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from logitbox.demo.tokens import BINS, Item

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_MAX_INK = 16.0


@dataclass(frozen=True)
class SceneConfig:
    """How scenes are drawn; lengths are in canvas pixels.

    Attributes:
        canvas: side of the square canvas.
        min_size: smallest side of a digit's ink box.
        max_size: largest side when the digit is alone.
        max_size_two: largest side when there are two; at most half the canvas, so that they never overlap.
        two_digits: share of scenes with two digits.
    """

    canvas: int = 40
    min_size: float = 12.0
    max_size: float = 26.0
    max_size_two: float = 19.0
    two_digits: float = 0.5


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Attributes:
        images: float32 ``[N, 8, 8]`` in 0-1.
        names: int64 ``[N]``, the classes, 0-9.
        ids: int64 ``[N]``, their rows in ``sklearn.datasets.load_digits``.
    """

    images: Floats
    names: Ints
    ids: Ints


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes.

    Attributes:
        images: float32 ``[B, 1, canvas, canvas]`` in 0-1.
        items: the digits of each scene, from left to right.
        digit_ids: the rows of ``load_digits`` that were drawn, in the same order.
    """

    images: Tensor
    items: tuple[tuple[Item, ...], ...]
    digit_ids: tuple[tuple[int, ...], ...]


def split_digits(n_eval: int, seed: int) -> tuple[Digits, Digits]:
    """Split the 1797 digit images into (train, eval); no image is in both."""
    bunch = cast("Any", load_digits())
    images = np.asarray(bunch.images, dtype=np.float32) / _MAX_INK
    names = np.asarray(bunch.target, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(names))
    train, held_out = np.sort(order[n_eval:]), np.sort(order[:n_eval])
    return (
        Digits(images[train], names[train], train),
        Digits(images[held_out], names[held_out], held_out),
    )


def draw_scenes(
    digits: Digits, picks: list[tuple[int, ...]], rng: np.random.Generator, config: SceneConfig
) -> Scenes:
    """Draw one scene for each tuple of rows of ``digits`` (one or two of them, left to right)."""
    canvases = np.zeros((len(picks), 1, config.canvas, config.canvas), dtype=np.float32)
    items: list[tuple[Item, ...]] = []
    for canvas, rows in zip(canvases, picks, strict=True):
        boxes = _place(len(rows), rng, config)
        for row, box in zip(rows, boxes, strict=True):
            canvas[0] += draw_digit(digits.images[row], box, config.canvas)
        items.append(
            tuple(
                Item(int(digits.names[row]), to_bins(box, config.canvas))
                for row, box in zip(rows, boxes, strict=True)
            )
        )
    ids = tuple(tuple(int(digits.ids[row]) for row in rows) for rows in picks)
    return Scenes(torch.from_numpy(canvases), tuple(items), ids)


def random_picks(
    digits: Digits, n: int, rng: np.random.Generator, config: SceneConfig
) -> list[tuple[int, ...]]:
    """Choose, with replacement, the one or two digits of each of ``n`` scenes."""
    rows = rng.integers(len(digits.names), size=(n, 2))
    two = rng.random(n) < config.two_digits
    return [(int(a), int(b)) if both else (int(a),) for (a, b), both in zip(rows, two, strict=True)]


def draw_digit(image: Floats, box: Floats, canvas: int) -> Floats:
    """Draw the ink of one 8x8 digit so that it exactly fills ``box``.

    A canvas pixel takes the mean ink over its area, so the drawing carries sub-pixel positions, and no ink
    falls outside the box.

    Args:
        image: float32 ``[8, 8]`` in 0-1.
        box: float32 ``(x1, y1, x2, y2)`` in canvas pixels.
        canvas: side of the canvas in pixels.

    Returns:
        float32 ``[canvas, canvas]`` in 0-1.
    """
    ink = _crop(image)
    down = _overlap(float(box[1]), float(box[3]), ink.shape[0], canvas)
    across = _overlap(float(box[0]), float(box[2]), ink.shape[1], canvas)
    return (down @ ink @ across.T).astype(np.float32)


def to_bins(box: Floats, canvas: int) -> tuple[int, int, int, int]:
    """Turn a box in canvas pixels into bins 0-999, rounded to the nearest."""
    x1, y1, x2, y2 = (int(value) for value in np.rint(box / canvas * (BINS - 1)))
    return x1, y1, x2, y2


def _place(n: int, rng: np.random.Generator, config: SceneConfig) -> list[Floats]:
    """Choose ``n`` boxes in pixels, left to right and apart from each other."""
    largest = config.max_size if n == 1 else config.max_size_two
    height = rng.uniform(config.min_size, largest, size=n)
    # A digit keeps roughly its proportions: names should not turn on a stroke squeezed beyond reading.
    width = np.clip(height * rng.uniform(0.75, 1.2, size=n), config.min_size / 2, largest)
    left = np.concatenate([[0.0], np.cumsum(width)[:-1]])
    slack = config.canvas - width.sum()
    x1 = left + np.sort(rng.uniform(0.0, slack, size=n))
    y1 = rng.uniform(0.0, config.canvas - height)
    return list(np.stack([x1, y1, x1 + width, y1 + height], axis=1).astype(np.float32))


def _crop(image: Floats) -> Floats:
    """Cut away the rows and columns without ink."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _overlap(start: float, stop: float, cells: int, canvas: int) -> NDArray[np.float64]:
    """Return ``[canvas, cells]``: the length of each unit pixel covered by each of ``cells`` equal cells."""
    edges = np.linspace(start, stop, cells + 1)
    pixels = np.arange(canvas)[:, None]
    return np.clip(np.minimum(pixels + 1, edges[None, 1:]) - np.maximum(pixels, edges[None, :-1]), 0.0, None)
