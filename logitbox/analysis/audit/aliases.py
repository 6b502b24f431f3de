"""What trainers call the metrics of the registry, and names that look alike but are something else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "loss": "nll",
        "ce": "nll",
        "ce_loss": "nll",
        "cross_entropy": "nll",
        "cross_entropy_loss": "nll",
        "xent": "nll",
        "nll_loss": "nll",
        "lm_loss": "nll",
        "lm loss": "nll",
        "ppl": "exp_nll",
        "perplexity": "exp_nll",
        "entropy": "full_entropy",
        "mean_entropy": "full_entropy",
        "token_entropy": "full_entropy",
        "acc": "token_acc",
        "accuracy": "token_acc",
        "tok_acc": "token_acc",
        "token_accuracy": "token_acc",
        "mean_token_accuracy": "token_acc",
        "masked_accuracy": "token_acc",
        "top1": "token_acc",
        "top1_acc": "token_acc",
        "top1_accuracy": "token_acc",
        "top_1_accuracy": "token_acc",
        "acc@1": "token_acc",
        "top5": "token_acc_top5",
        "top5_acc": "token_acc_top5",
        "top5_accuracy": "token_acc_top5",
        "top_5_accuracy": "token_acc_top5",
        "top_5_acc": "token_acc_top5",
        "acc@5": "token_acc_top5",
        "accuracy_top5": "token_acc_top5",
        "acc_top5": "token_acc_top5",
        "mean_confidence": "confidence",
        "top1_prob": "confidence",
    }
)
"""Names that trainers give to quantities of the registry, in small letters; exact keys of it come first."""


@dataclass(frozen=True)
class Pattern:
    """Names of values that the registry has no metric of, for checks of one logged key against another.

    Args:
        name: a regular expression of a whole name without phase, in small letters.
        value: what it is, `{k}` the expression's group of that name.
        is_fraction: whether it lies in [0, 1].
    """

    name: str
    value: str
    is_fraction: bool = True


PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        r"(?:token_)?(?:top_?|acc(?:uracy)?@|acc(?:uracy)?_top_?)(?P<k>\d+)(?:_acc(?:uracy)?)?",
        "correct_top{k}",
    ),
    Pattern(r"top(?P<k>\d+)_prob", "top{k}_prob"),
    Pattern(r"ece|expected_calibration_error", "ece"),
    Pattern(r"mrr|mean_reciprocal_rank", "reciprocal_rank"),
)

EVAL_WORDS = ("eval", "val", "valid", "validation", "dev", "evaluation")
TRAIN_WORDS = ("train", "training")
OTHER_WORDS = ("test", "predict")
"""Words for a phase, before a name and "_", "/" or "."."""


@dataclass(frozen=True)
class Objective:
    """Keys that betray what a run is trained on.

    Args:
        keys: a regular expression, searched in a key in small letters.
        about: what the loss is then, in words.
        touches: values whose names mean something else in such a run; the others are audited all the same.
    """

    keys: str
    about: str
    touches: tuple[str, ...] = ("nll",)


_PREFERENCE = "a preference or reinforcement learning objective"
_MIXED = "not plain cross-entropy"

OBJECTIVES: tuple[Objective, ...] = (
    Objective(r"(^|[/_])rewards?([/_]|$)", _PREFERENCE, ("nll", "correct", "entropy")),
    Objective(r"(^|/|eval_)log(p|it)s/(chosen|rejected)", _PREFERENCE, ("nll", "correct", "entropy")),
    Objective(r"(^|/|eval_|train_)(kl|approx_kl|policy_kl)(_|/|$)", "an objective with a divergence in it"),
    Objective(r"(^|[/_])(completions?_length|completions/|advantages?|clip_ratio|objective/|policy_loss)", _PREFERENCE,
              ("nll", "correct", "entropy")),
    Objective(r"(^|[/_])focal", f"a focal loss, {_MIXED}"),
    Objective(r"(^|[/_])dft([/_]|$)", f"dynamic fine-tuning, whose loss is weighted by p(gold): {_MIXED}"),
    Objective(r"(^|[/_])(kd|distill\w*|teacher)([/_]|$)", f"distillation, {_MIXED}"),
    Objective(r"roc_?auc|hamming|subset_acc|jaccard|exact_match_ratio", f"perhaps binary cross-entropy of many labels, {_MIXED}"),
)  # fmt: skip
"""A loss of a run that logs such keys is not judged as cross-entropy."""

ADDED: Mapping[str, str] = MappingProxyType(
    {
        r"(^|[/_])(aux|router|balance|load_balancing)\w*_loss": "the loss may hold an auxiliary loss of the experts, too",
        r"(^|[/_])z_?loss": "the loss may hold a z-loss, too",
        r"(^|[/_])mtp": "the loss may hold those of multi-token prediction, too",
    }
)
"""Keys beside which a loss may be cross-entropy plus something; it is audited with this note."""

HOUSEKEEPING = re.compile(
    r"(^|[/_])(learning_rate|lr|grad_norm|gradient_norm|epoch|step|global_step|max_steps|total_flos|flos|percentage"
    r"|num_tokens|num_input_tokens_seen|samples|runtime|elapsed_time|remaining_time|jit_compilation_time"
    r"|\w*per_second(_per_gpu)?|current_steps|total_steps|best_metric|memory\W?.*|train_speed\W?.*|time|throughput|mfu)$"
)
"""Keys that are no metric of tokens."""

NOT_CROSS_ENTROPY = re.compile(
    r"focal|dft|(^|[/_])kd([/_]|$)|distill|mtp|aux|router|z_?loss|(^|[/_])kl|mse|contrastive|policy|value_loss|reward|sft_loss"
)
"""Words in a name that say it is no plain cross-entropy."""
