"""Fixtures of the recording tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from logitbox.dumps.recorder import Recorder

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `dumps_oracle`

MakeRecorder = Callable[..., Recorder]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dump"


@pytest.fixture
def recorder(path: Path) -> Iterator[MakeRecorder]:
    """Make Recorders at `path` (or elsewhere) that are closed at the end of the test, whatever happens."""
    made: list[Recorder] = []

    def make(*args: object, at: Path | None = None, **options: object) -> Recorder:
        made.append(Recorder(at or path, *args, **options))
        return made[-1]

    yield make
    for one in made:
        try:
            one.close()
        except Exception:  # noqa: BLE001 (the test looked at the failure already)
            continue
