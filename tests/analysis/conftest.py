"""One dump for most tests: two sessions and a third of two ranks, several shards each, and what went into it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from logitbox.dumps.dump import Dump, open_dump
from logitbox.dumps.recorder import Recorder

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `analysis_oracle`

from analysis_oracle import COORD, OPTIONS, Log, V, scored

SOURCES = {0: "web", 1: "web", 2: "book", 4: "book"}
"""Of samples 3 and 5 nothing is told."""
COMMON = {"vocab": V, "groups": {"coord": COORD}, "ordered": {"coord": OPTIONS}, "shard_rows": 40}


def _fill(path: Path) -> Log:
    rng, log = np.random.default_rng(7), Log()
    hidden = Log()
    with Recorder(path, types=["coord", "desc", "format"], **COMMON) as rec:
        for step in range(5):
            for micro in range(2):
                # Steps 3 and 4 are replaced by the next session.
                target = log if step < 3 else hidden
                target.record(rec, rng, step=step, micro=micro, epoch=step / 2)
        for dataset in ("a", "b"):
            for micro in range(2):
                log.record(rec, rng, phase="eval", dataset=dataset, step=3, micro=micro)
        datasets = ["", "a", "b"]
        rec.samples(
            {
                "sample": [s for s in SOURCES for _ in datasets],
                "dataset": datasets * len(SOURCES),
                "source": [source for source in SOURCES.values() for _ in datasets],
                "parity": [s % 2 for s in SOURCES for _ in datasets],
            }
        )
    with Recorder(path, types=["format", "coord", "desc"], resume_from=3, probes=True, **COMMON) as rec:
        for step in range(3, 6):
            log.record(rec, rng, step=step, micro=0)
        log.record(rec, rng, phase="eval", dataset="a", step=6, micro=0, epoch=3.0)
    for rank in (0, 1):
        with Recorder(
            path, types=["coord", "desc", "format"], rank=rank, world=2, session="0003-abc", **COMMON
        ) as rec:
            log.record(rec, rng, phase="val", step=7, micro=0, rows=5)
    return log


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    path = tmp_path_factory.mktemp("dumps") / "mixed"
    log = _fill(path)
    tokens = [scored(token) for token in log.tokens]
    for token in tokens:
        token["source"] = SOURCES.get(token["sample"])
        token["parity"] = token["sample"] % 2 if token["sample"] in SOURCES else None
        if token["phase"] == "val":  # of data set "" too, and the same samples
            assert token["dataset"] == ""
    return path, tokens


@pytest.fixture(scope="session")
def dump(recorded: tuple[Path, list[dict]]) -> Dump:
    return open_dump(recorded[0])


@pytest.fixture(scope="session")
def tokens(recorded: tuple[Path, list[dict]]) -> list[dict]:
    return recorded[1]
