"""Short runs of other people's trainers on the CPU, recorded through one pair of hooks.

Each run leaves `trainer_state.json`, as its trainer writes it, and the recorded `dump` in one folder. What the
trainers log is theirs alone: the hooks read the logits and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tiny_llama import END, IGNORED, PAD, START, TOKENS, Task, collate, make_model
from transformers import Trainer, TrainingArguments

from logitbox.dumps.recorder import Recorder

K = 4


@dataclass(frozen=True)
class Run:
    """One run to record.

    Attributes:
        trainer: "transformers" or "trl".
        world: processes (gloo).
        epochs, logging_steps: of the run; it is evaluated every five steps unless the options say otherwise.
        n_train, n_eval: samples; two a batch and rank.
        prompts: their tokens are labels, too, from the very first; recorded with probes, which tell that one.
        flags_repeats: flag the evaluation's samples that the sampler repeated.
        options: more arguments of the trainer.
        version: of transformers, where it is not the one installed here.
    """

    trainer: str = "transformers"
    world: int = 1
    epochs: int = 3
    logging_steps: int = 5
    n_train: int = 25
    n_eval: int = 11
    prompts: bool = False
    flags_repeats: bool = False
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: str = ""


RUNS = {
    "transformers": Run(epochs=4),
    "transformers-two-ranks": Run(
        world=2, epochs=3, logging_steps=1, n_eval=12, options={"average_tokens_across_devices": True}
    ),
    "transformers-two-ranks-own-tokens": Run(
        world=2, epochs=5, n_eval=12, options={"average_tokens_across_devices": False}
    ),
    "trl": Run("trl", epochs=4),
    "trl-two-ranks": Run("trl", world=2, epochs=5, n_train=26, n_eval=12),
    "trl-two-ranks-cut": Run(
        "trl",
        world=2,
        epochs=3,
        logging_steps=1,
        n_eval=9,
        flags_repeats=True,
        options={"eval_steps": 2},
    ),
    "transformers-4.45.2": Run(epochs=7, version="4.45.2"),
    "transformers-4.46.3-two-ranks": Run(
        world=2,
        epochs=1,
        logging_steps=1,
        n_train=65,
        n_eval=12,
        prompts=True,
        options={"average_tokens_across_devices": True, "eval_steps": 2},
        version="4.46.3",
    ),
}
"""Their epochs end within a step, and their last batches are short.

With two ranks and 25 samples the sampler hands the last batch of an epoch to both; in TRL's runs this decides what its
metrics leave out ("trl-two-ranks-cut").
"""


def run(name: str, folder: Path) -> None:
    """Train and record the run of that name; with several processes every one of them calls this.

    Args:
        name: in `RUNS`.
        folder: where `trainer_state.json` and `dump` are written, and the trainer's own files.
    """
    plan = RUNS[name]
    if plan.version and transformers.__version__ != plan.version:
        raise SystemExit(f"{name} needs transformers {plan.version}; this is {transformers.__version__}")
    trainer = MAKERS[plan.trainer](plan, folder)
    with Recorder(
        folder / "dump",
        vocab=list(TOKENS),
        k=K,
        probes=plan.prompts,
        accumulation=4,
        lse_beta="never",
        session="0001-trainer",
    ) as recorder:
        attach(trainer, recorder, plan.n_eval if plan.flags_repeats else None)
        trainer.train()
    if trainer.is_world_process_zero():
        trainer.state.save_to_json(str(folder / "trainer_state.json"))


def attach(trainer: Trainer, recorder: Recorder, n_eval: int | None = None) -> None:
    """Record every forward pass of the trainer's model that is given labels.

    With the number of its samples, those that the sampler repeats in an evaluation are flagged. (In training they are
    learnt from like any other.)

    The logits are made from the last hidden state, in the arithmetic of the forward pass: TRL's model computes the
    loss in pieces and returns none, and trains in bfloat16 unless told otherwise.
    """
    hidden: list[torch.Tensor] = []
    seen = 0

    def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        hidden[:] = [output.last_hidden_state]

    def record(module: Any, _inputs: Any, inputs: dict[str, Any], _output: Any) -> None:
        nonlocal seen
        if inputs.get("labels") is None:
            return
        seen = 0 if module.training else seen + 1
        flags = None
        if n_eval is not None and not module.training:
            flags = {"duplicate": repeats(trainer, inputs["labels"], seen - 1, n_eval)}
        with torch.no_grad(), trainer.accelerator.autocast():
            logits = module.lm_head(hidden.pop())
        recorder.record(
            logits,
            inputs["labels"],
            step=trainer.state.global_step,
            phase="train" if module.training else "eval",
            epoch=trainer.state.epoch if module.training else None,
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            flags=flags,
        )

    model: Any = trainer.model
    model.model.register_forward_hook(keep)
    model.register_forward_hook(record, with_kwargs=True)


def repeats(trainer: Trainer, labels: torch.Tensor, batch: int, n_eval: int) -> torch.Tensor:
    """Tokens of samples beyond the last, bool [B, T]: ranks take turns at batches, and the sampler fills the last ones."""
    place = (batch * trainer.accelerator.num_processes + trainer.accelerator.process_index) * labels.shape[0]
    row = place + torch.arange(labels.shape[0])
    return (row >= n_eval)[:, None].expand(labels.shape)


def _arguments(plan: Run, folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": plan.epochs,
        "logging_steps": plan.logging_steps,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_strategy": "no",
        "report_to": "none",
        "learning_rate": 1e-2,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        **({"ddp_backend": "gloo"} if plan.world > 1 else {}),
        **plan.options,
    }


def _transformers(plan: Run, folder: Path) -> Trainer:
    return Trainer(
        model=make_model(),
        args=TrainingArguments(**_arguments(plan, folder)),
        data_collator=collate,
        train_dataset=Task(plan.n_train, seed=1, prompts=plan.prompts),
        eval_dataset=Task(plan.n_eval, seed=2, prompts=plan.prompts),
        compute_metrics=_token_accuracy,
        preprocess_logits_for_metrics=lambda logits, _labels: logits.argmax(dim=-1),
    )


def _token_accuracy(outcome: Any) -> dict[str, float]:
    """The share of supervised tokens that were predicted, over the whole evaluation."""
    predicted, target = outcome.predictions[:, :-1], outcome.label_ids[:, 1:]
    told = target != IGNORED
    return {"token_accuracy": float(np.mean(predicted[told] == target[told]))}


def _trl(plan: Run, folder: Path) -> Trainer:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=make_model(),
        args=SFTConfig(**_arguments(plan, folder)),
        train_dataset=Dataset.from_list(Task(plan.n_train, seed=1, prompts=plan.prompts).rows),
        eval_dataset=Dataset.from_list(Task(plan.n_eval, seed=2, prompts=plan.prompts).rows),
        processing_class=_tokenizer(),
    )


def _tokenizer() -> Any:
    """The task's letters as a tokenizer; TRL asks for one although the samples are tokens already."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.WordLevel({token: i for i, token in enumerate(TOKENS)}, unk_token=TOKENS[PAD]))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=letters, pad_token=TOKENS[PAD], bos_token=TOKENS[START], eos_token=TOKENS[END]
    )


MAKERS: dict[str, Callable[[Run, Path], Trainer]] = {"transformers": _transformers, "trl": _trl}
