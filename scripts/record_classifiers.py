"""Trains four small classifiers on scikit-learn's digits and records them: one healthy, three in trouble.

    .venv/bin/python scripts/record_classifiers.py FOLDER

Digits are real handwriting (1797 images of 8 × 8 pixels, 10 classes). What seed 002 needs besides is made of it:

- *groups* (speakers): scikit-learn keeps the order in which the forms were filled in, so that neighbours are mostly of one
  writer. Of each digit, runs of 4 consecutive samples are one group: one writer's, of one class, as a
  speaker is of one region. Whose they are is not known; runs are a stand-in. Groups are in training or in validation, never in both.
- *sources*: the first and the second half of the data set, "early" and "late".
- *length*: of each image only the upper r rows are shown, r = 2 to 8 at random; the length is 2 r "seconds". So
  short samples are harder, as short clips are.

The runs:

- `healthy`: softmax regression, trained as one would.
- `flipped`: the same, but every fifth label is another class, in training and in validation. The truth is in the
  column `truth` of `samples`.
- `tiny`: all has to pass through one number.
- `memorised`: every image lies on a background pattern that its group has for its own (the paper it was written on,
  say), far stronger than the ink. A model of 64 hidden units learns the papers by heart. Of the validation's groups every second
  is on the paper of a training group of the same digit, as where a split by writer leaks; the others' it has never seen.

Each step and each epoch's validation are recorded, with the gradient norm after clipping at 0.5.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from logitbox.dumps.gradients import record_grad_norm
from logitbox.dumps.recorder import Recorder

CLASSES = 10
RUN = 4
"""Samples of a group."""
BATCH = 8
CLIP = 0.5
FLIPPED = 0.2
SHOWN = (0.04, 0.06, 0.1, 0.15, 0.2, 0.2, 0.25)
"""How often 2, 3, …, 8 rows of an image are shown."""


@dataclass(frozen=True)
class Kind:
    """How a run is trained.

    Attributes:
        hidden: units between pixels and classes; 0 is softmax regression.
        is_linear: whether hidden units have no activation.
        epochs: passes over the training data.
        rate: learning rate of Adam.
        cooling: what the rate is multiplied by after each epoch.
        ink: value of a black pixel.
        flipped: share of labels that are wrong.
        sheet: standard deviation of the background's pixels.
    """

    hidden: int = 0
    is_linear: bool = False
    epochs: int = 20
    rate: float = 4e-2
    cooling: float = 1.0
    ink: float = 0.6
    flipped: float = 0.0
    sheet: float = 0.0


KINDS = {
    "healthy": Kind(),
    "flipped": Kind(flipped=FLIPPED),
    "tiny": Kind(hidden=1, is_linear=True, rate=3e-2),
    "memorised": Kind(hidden=64, epochs=15, rate=1e-2, cooling=0.9, ink=0.5, sheet=8.0),
}


@dataclass(frozen=True)
class Data:
    """All samples.

    Attributes:
        x: [n, 64].
        truth: [n], the digit.
        label: [n], what is trained and validated on.
        group: [n], number.
        length: [n].
        is_val: [n].
    """

    x: Tensor
    truth: NDArray[np.int64]
    label: NDArray[np.int64]
    group: NDArray[np.int64]
    length: NDArray[np.float64]
    is_val: NDArray[np.bool_]


def make_data(kind: Kind, seed: int = 0) -> Data:
    """The samples of a run."""
    rng = np.random.default_rng(seed)
    images, truth = load_digits(return_X_y=True)
    x, truth = images.reshape(-1, 8, 8) / 16, truth.astype(np.int64)
    rows = rng.choice(np.arange(2, 9), len(x), p=SHOWN)
    x = np.where(np.arange(8)[None, :, None] < rows[:, None, None], x, 0.0)
    group = _groups(truth)
    is_val = np.isin(group, rng.permutation(group.max() + 1)[: (group.max() + 1) // 4])
    sheets = rng.normal(size=(group.max() + 1, 8, 8))[_papers(group, is_val)]
    x = kind.ink * x + kind.sheet * sheets[group]
    label = truth.copy()
    wrong = rng.random(len(x)) < kind.flipped
    label[wrong] = (truth[wrong] + rng.integers(1, CLASSES, int(wrong.sum()))) % CLASSES
    return Data(
        torch.tensor(x.reshape(len(x), 64), dtype=torch.float32), truth, label, group, 2.0 * rows, is_val
    )


def _groups(truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of samples of one digit, in the order of the data set."""
    place = np.zeros(len(truth), dtype=np.int64)
    for digit in range(CLASSES):
        mine = truth == digit
        place[mine] = np.arange(mine.sum()) // RUN
    return np.unique(np.stack([place, truth]), axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _papers(group: NDArray[np.int64], is_val: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the paper of each group: its own, or for every second of validation that of a training group."""
    papers = np.arange(group.max() + 1)
    of_train = set(group[~is_val].tolist())
    for number in np.unique(group[is_val])[::2].tolist():
        if number - CLASSES in of_train:  # the same digit's run before
            papers[number] = number - CLASSES
    return papers


def record(kind: str, path: Path | str, seed: int = 0) -> None:
    """Train one of `KINDS` and record it into the dump `path`."""
    settings = KINDS[kind]
    data = make_data(settings, seed)
    torch.manual_seed(seed)
    model = _model(settings)
    optimizer = torch.optim.Adam(model.parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.cooling)
    labels, train = torch.tensor(data.label), torch.tensor(np.flatnonzero(~data.is_val))
    val = torch.tensor(np.flatnonzero(data.is_val))
    step = 0
    with Recorder(path, vocab=[str(digit) for digit in range(CLASSES)], length_unit="s") as rec:
        rec.samples(_samples(data))
        for epoch in range(1, settings.epochs + 1):
            for chosen in _batches(train[torch.randperm(len(train))]):
                logits = model(data.x[chosen])
                loss = nn.functional.cross_entropy(logits, labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                rec.record(logits.detach(), labels[chosen], step, epoch=epoch, sample=chosen)
                record_grad_norm(rec, step, model.parameters())
                optimizer.step()
                step += 1
            schedule.step()
            with torch.no_grad():
                for chosen in _batches(val):
                    rec.record(model(data.x[chosen]), labels[chosen], step, "val", epoch=epoch, sample=chosen)


def _model(kind: Kind) -> nn.Module:
    if not kind.hidden:
        return nn.Linear(64, CLASSES)
    between = nn.Identity() if kind.is_linear else nn.ReLU()
    return nn.Sequential(nn.Linear(64, kind.hidden), between, nn.Linear(kind.hidden, CLASSES))


def _batches(index: Tensor) -> Iterator[Tensor]:
    return iter(index.split(BATCH))


def _samples(data: Data) -> dict[str, list[object]]:
    n = len(data.truth)
    return {
        "sample": list(range(n)),
        "source": ["early" if i < n // 2 else "late" for i in range(n)],
        "group": [f"writer-{g}" for g in data.group],
        "length": data.length.tolist(),
        "truth": data.truth.tolist(),
    }


def main() -> None:
    """Record all runs below the folder given."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    for kind in KINDS:
        start = time.perf_counter()
        record(kind, folder / kind)
        print(f"{kind}: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
