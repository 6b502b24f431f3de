"""Who wrote a log, as far as its keys tell."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Framework:
    """A trainer, and the keys that only it writes.

    Args:
        name: of the trainer.
        any_of: one of these tells it,
        all_of: if all of these are there.
        is_sure: whether nobody else's trainer has such names; those of a dump are anybody's.
    """

    name: str
    any_of: frozenset[str]
    all_of: frozenset[str] = frozenset()
    is_sure: bool = True


FRAMEWORKS = (
    Framework("ms-swift", frozenset({"global_step/max_steps", "memory(GiB)", "train_speed(iter/s)"})),
    Framework("llama-factory", frozenset({"current_steps"}), frozenset({"total_steps"})),
    Framework(
        "trl",
        frozenset(
            {
                "mean_token_accuracy",
                "eval_mean_token_accuracy",
                "rewards/accuracies",
                "rewards/margins",
                "completions/mean_length",
            }
        ),
    ),
    Framework("trl", frozenset({"num_tokens"}), is_sure=False),
    Framework("ms-swift", frozenset({"token_acc", "eval_token_acc"}), is_sure=False),
    Framework(
        "transformers",
        frozenset({"learning_rate", "eval_loss", "eval_runtime", "train_runtime"}),
        frozenset({"epoch"}),
        is_sure=False,
    ),
)
"""The first that fits."""


def framework_of(names: Collection[str], *, is_sure: bool = False) -> str:
    """The trainer whose log has these names (of keys, steps and epochs); "" if they do not tell.

    Args:
        names: all of the log.
        is_sure: ask only for trainers whose names nobody else uses.
    """
    bare = {name.removeprefix("train/").replace("eval/", "eval_") for name in names} | set(names)
    for one in FRAMEWORKS:
        if bare & one.any_of and one.all_of <= bare and one.is_sure >= is_sure:
            return one.name
    return ""
