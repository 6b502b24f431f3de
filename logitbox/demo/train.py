"""`train`: a demo run from nothing to a finished dump."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from logitbox.demo.config import DemoConfig
from logitbox.demo.tokens import COORD_IDS, TOKENS, TYPES
from logitbox.demo.trainer import Progress, Trainer
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


@dataclass(frozen=True)
class DemoRun:
    """What a run left behind: losses in nats, ``name_accuracy`` in 0-1, ``coord_error`` in bins of 1000."""

    dump: Path
    first_eval_loss: float
    final_eval_loss: float
    name_accuracy: float
    coord_error: float
    seconds: float


_DEFAULT = DemoConfig()


def train(out: Path, config: DemoConfig = _DEFAULT, progress: Progress | None = None) -> DemoRun:
    """Train the demo model on the CPU and record it into ``out / "dump"``.

    Args:
        out: folder for the run; created if missing.
        config: everything that decides the run.
        progress: called as ``progress(step, steps, message)`` after each log line and evaluation.

    Raises:
        InputError: ``out / "dump"`` already exists; its steps would mix with those of this run.
    """
    started = time.monotonic()
    dump = out / "dump"
    if dump.exists():
        raise InputError(f"{dump} already exists; a demo run needs a new folder: delete it or name another")
    with _threads(config.threads), _recorder(dump, config) as recorder:
        results = Trainer(config, recorder, progress or _silent).run()
    first, last = results[0], results[-1]
    return DemoRun(
        dump=dump,
        first_eval_loss=first.logged["eval_loss"],
        final_eval_loss=last.logged["eval_loss"],
        name_accuracy=last.name_accuracy,
        coord_error=last.coord_error,
        seconds=time.monotonic() - started,
    )


def _recorder(dump: Path, config: DemoConfig) -> Recorder:
    return Recorder(
        dump,
        vocab=TOKENS,
        k=config.k,
        groups={"coord": COORD_IDS},
        ordered={"coord": asdict(config.loss)},
        types=list(TYPES),
        every=config.record_every,
    )


def _silent(step: int, steps: int, message: str) -> None:
    del step, steps, message


@contextmanager
def _threads(count: int) -> Generator[None]:
    """Use ``count`` torch threads, then put the former number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
