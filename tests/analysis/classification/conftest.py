"""One run for most tests: four epochs of training and validation, and what went into it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `classifier_oracle`

from classifier_oracle import Run, fill

from logitbox.dumps.dump import Dump, open_dump


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dump, Run]:
    path = tmp_path_factory.mktemp("classifiers") / "run"
    run = Run(path)
    run.samples()
    fill(run)
    run.rec.close()
    return open_dump(path), run


@pytest.fixture(scope="session")
def dump(made: tuple[Dump, Run]) -> Dump:
    return made[0]


@pytest.fixture(scope="session")
def run(made: tuple[Dump, Run]) -> Run:
    return made[1]
