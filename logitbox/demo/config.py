"""All that decides a demo run, and when things happen in it."""

import math
from dataclasses import dataclass, field

import numpy as np

from logitbox.demo.model import ModelConfig
from logitbox.demo.scenes import SceneConfig
from logitbox.dumps.spec import OrderedSpec

COORD_LOSS = OrderedSpec(
    sigma=2.0,
    truncate=16,
    normalize_w1=True,
    soft_ce_weight=0.1,  # boxes are learned long before names; at 1.0 they take all the gradient
    w1_weight=2.0,  # normalized, W1 is a share of the range: about 0.01 in the end
    gate_weight=1.0,
)
"""The loss of coordinates: what the demo trains on and what it has recorded."""


@dataclass(frozen=True)
class DemoConfig:
    """All that decides a demo run.

    Attributes:
        steps: optimizer steps, each of ``micro_batches`` batches of ``micro_batch`` scenes.
        learning_rate: peak of AdamW's rate, reached after ``warmup`` steps, then a cosine down to zero.
        log_every: steps between two log lines, and the window each is averaged over; 1, so that all tokens behind a
            line of a recorded step are on record, and an audit can check it.
        record_every: steps between two recorded training steps.
        k: how many of the best tokens are recorded per position.
        evals: evaluation passes, spread evenly from step 0 to the last.
        loss: target and weights of the loss on coordinates; other tokens have cross-entropy.
        threads: torch threads while training; the arithmetic, and so the run, depends on it slightly.
    """

    steps: int = 480
    micro_batch: int = 32
    micro_batches: int = 2
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 40
    max_grad_norm: float = 1.0
    log_every: int = 1
    record_every: int = 10
    k: int = 32
    evals: int = 7
    eval_scenes: int = 256
    seed: int = 0
    threads: int = 2
    scenes: SceneConfig = field(default_factory=SceneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: OrderedSpec = COORD_LOSS


def eval_steps(config: DemoConfig) -> list[int]:
    """Return the steps after which the model is evaluated: 0, the last, and an even spread between."""
    return sorted({round(step) for step in np.linspace(0, config.steps, config.evals)})


def schedule(step: int, warmup: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then half a cosine."""
    if step <= warmup:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
