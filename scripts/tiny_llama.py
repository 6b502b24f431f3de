"""A tiny Llama-type model and a task for it: words to repeat, reverse or spell, with answers from one to forty letters.

Works with transformers 4.45 and later; nothing is downloaded.
"""

from __future__ import annotations

import random

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 :.,-"
SPECIAL = ("<pad>", "<s>", "</s>")
PAD, START, END = range(len(SPECIAL))
TOKENS = (*SPECIAL, *LETTERS, *(f"<unused{i}>" for i in range(64 - len(SPECIAL) - len(LETTERS))))
IGNORED = -100

WORDS = ("cat", "lamp", "a", "river", "to", "window", "moon", "it", "garden", "sea", "iron", "yes")


class Task(Dataset[dict[str, list[int]]]):
    """Prompts and answers as token ids; the same seed gives the same samples.

    Args:
        n: samples.
        seed: of the draw.
        prompts: whether they are labels, too; else theirs are −100.
    """

    def __init__(self, n: int, seed: int, *, prompts: bool = False) -> None:
        draw = random.Random(seed)
        self.rows = [_row(draw, prompts=prompts) for _ in range(n)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return self.rows[index]


def _row(draw: random.Random, *, prompts: bool) -> dict[str, list[int]]:
    """One sample: most answers are short and some are long, so that token counts of batches differ widely."""
    word, times = draw.choice(WORDS), draw.choice((1, 1, 2, 3, 6))
    kind, answer = draw.choice(
        (
            ("repeat", " ".join([word] * times)),
            ("reverse", word[::-1]),
            ("spell", "-".join(word)),
        )
    )
    prompt = [START, *_ids(f"{kind} {word} {times}: " if kind == "repeat" else f"{kind} {word}: ")]
    tokens = [*prompt, *_ids(answer), END]
    ignored = 0 if prompts else len(prompt)
    return {"input_ids": tokens, "labels": [IGNORED] * ignored + tokens[ignored:]}


def _ids(text: str) -> list[int]:
    return [len(SPECIAL) + LETTERS.index(letter) for letter in text]


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest row: `input_ids`, `labels`, `attention_mask`, each [B, T]."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows])

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": padded("input_ids", PAD),
        "labels": padded("labels", IGNORED),
        "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
    }


def make_model(seed: int = 0) -> LlamaForCausalLM:
    """Two layers of width 32, from a configuration: the same weights for the same seed and versions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config)
