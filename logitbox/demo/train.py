"""Training of the demo model, recorded from the first step to the last."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from logitbox.demo.evaluation import EvalResult, digits_needed, draw_eval_scenes, evaluate, sample_columns
from logitbox.demo.logs import LogWindow
from logitbox.demo.losses import CoordLossConfig, composite_loss
from logitbox.demo.model import DigitReader, ModelConfig
from logitbox.demo.scenes import SceneConfig, draw_scenes, random_picks, split_digits
from logitbox.demo.tokens import COORD_IDS, TOKENS, TYPES, collate
from logitbox.dumps.recorder import Recorder

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class DemoConfig:
    """All that decides a demo run.

    Attributes:
        steps: optimizer steps, each of ``micro_batches`` batches of ``micro_batch`` scenes.
        learning_rate: peak of AdamW's rate, reached after ``warmup`` steps, then a cosine down to zero.
        log_every: steps between two log lines, and the window each is averaged over.
        record_every: steps between two recorded training steps.
        evals: evaluation passes, spread evenly from step 0 to the last.
        threads: torch threads while training; the arithmetic, and so the run, depends on it slightly.
    """

    steps: int = 480
    micro_batch: int = 32
    micro_batches: int = 2
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 40
    max_grad_norm: float = 1.0
    log_every: int = 10
    record_every: int = 10
    evals: int = 7
    eval_scenes: int = 256
    seed: int = 0
    threads: int = 2
    scenes: SceneConfig = field(default_factory=SceneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: CoordLossConfig = field(default_factory=CoordLossConfig)


@dataclass(frozen=True)
class DemoRun:
    """What a run left behind: losses in nats, ``name_accuracy`` in 0-1, ``coord_error`` in bins of 1000."""

    dump: Path
    first_eval_loss: float
    final_eval_loss: float
    name_accuracy: float
    coord_error: float
    seconds: float


def train(out: Path, config: DemoConfig = DemoConfig(), progress: Progress | None = None) -> DemoRun:
    """Train the demo model on the CPU and record it into ``out / "dump"``.

    Args:
        out: folder for the run; created if missing.
        config: everything that decides the run.
        progress: called as ``progress(step, steps, message)`` after each log line and evaluation.
    """
    started = time.monotonic()
    dump = out / "dump"
    with _threads(config.threads), _recorder(dump, config) as recorder:
        results = _Trainer(config, recorder, progress or _silent).run()
    first, last = results[0], results[-1]
    return DemoRun(
        dump=dump,
        first_eval_loss=first.logged["eval_loss"],
        final_eval_loss=last.logged["eval_loss"],
        name_accuracy=last.name_accuracy,
        coord_error=last.coord_error,
        seconds=time.monotonic() - started,
    )


def eval_steps(config: DemoConfig) -> list[int]:
    """Return the steps after which the model is evaluated: 0, the last, and an even spread between."""
    return sorted({round(step) for step in np.linspace(0, config.steps, config.evals)})


class _Trainer:
    """The state of one run. Step s is the s-th update, from 1; evaluation at step s follows it."""

    def __init__(self, config: DemoConfig, recorder: Recorder, progress: Progress) -> None:
        self.config, self.recorder, self.progress = config, recorder, progress
        self.digits, held_out = split_digits(digits_needed(config.eval_scenes), config.seed)
        self.rng, eval_rng = (np.random.default_rng([config.seed, stream]) for stream in (1, 2))
        self.eval_scenes = draw_eval_scenes(held_out, config.eval_scenes, eval_rng, config.scenes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = DigitReader(config.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
        )
        self.window = LogWindow()

    def run(self) -> list[EvalResult]:
        """Train from the first step to the last; returns the evaluations in order."""
        self.recorder.samples(sample_columns(self.eval_scenes))
        due = eval_steps(self.config)
        results = [self.evaluate(0)]
        for step in range(1, self.config.steps + 1):
            self.step(step)
            if step in due:
                results.append(self.evaluate(step))
        return results

    def step(self, step: int) -> None:
        """Make one update from several micro-batches."""
        config = self.config
        rate = config.learning_rate * schedule(step, config.warmup, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for micro in range(config.micro_batches):
            self.micro_batch(step, micro)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if step % config.log_every == 0 or step == config.steps:
            self.log(step, rate, float(norm))

    def micro_batch(self, step: int, micro: int) -> None:
        """Draw fresh scenes, record their logits, and add their gradients."""
        config = self.config
        picks = random_picks(self.digits, config.micro_batch, self.rng, config.scenes)
        scenes = draw_scenes(self.digits, picks, self.rng, config.scenes)
        text = collate(scenes.items)
        logits = self.model(scenes.images, text.input_ids)
        parts = composite_loss(logits, text.labels, COORD_IDS, config.loss)
        # Each micro-batch weighs the same, as in trainers that do not count the tokens of the whole step.
        (parts.total / config.micro_batches).backward()
        self.window.add(parts, logits, text.labels)
        self.recorder.record(
            logits,
            text.labels,
            step=step,
            phase="train",
            micro=micro,
            input_ids=text.input_ids,
            epoch=step * config.micro_batches * config.micro_batch / len(self.digits.names),
            attention_mask=text.attention_mask,
            types=text.types,
            loss=parts.total,
        )

    def log(self, step: int, rate: float, grad_norm: float) -> None:
        """Log the window that ends here, and begin the next."""
        means = self.window.means()
        self.window = LogWindow()
        self.recorder.scalars(step, {**means, "learning_rate": rate, "grad_norm": grad_norm})
        self.progress(
            step, self.config.steps, f"loss {means['loss']:.2f}, token_acc {means['token_acc']:.0%}"
        )

    def evaluate(self, step: int) -> EvalResult:
        """Evaluate, record and log."""
        result = evaluate(self.model, self.eval_scenes, step, self.config.loss, self.recorder)
        self.recorder.scalars(step, result.logged, phase="eval")
        self.progress(
            step,
            self.config.steps,
            f"eval_loss {result.logged['eval_loss']:.2f}, names {result.name_accuracy:.0%}, "
            f"boxes within {result.coord_error:.0f} of 1000",
        )
        return result


def schedule(step: int, warmup: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then half a cosine."""
    if step <= warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _recorder(dump: Path, config: DemoConfig) -> Recorder:
    return Recorder(
        dump,
        vocab=TOKENS,
        k=32,
        groups={"coord": COORD_IDS},
        ordered={"coord": config.loss.parameters()},
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
