"""The training loop of the demo: what any trainer does, with three calls to the recorder in it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from logitbox.demo.config import DemoConfig, eval_steps, schedule
from logitbox.demo.evaluation import EvalResult, digits_needed, draw_eval_scenes, evaluate, sample_columns
from logitbox.demo.logs import LogWindow
from logitbox.demo.model import DigitReader
from logitbox.demo.scenes import draw_scenes, random_picks, split_digits
from logitbox.demo.tokens import COORD_IDS, collate
from logitbox.dumps.losses import composite_loss
from logitbox.dumps.recorder import Recorder

Progress = Callable[[int, int, str], None]


class Trainer:
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
            f"boxes off by {result.coord_error:.0f} of 1000",
        )
        return result
