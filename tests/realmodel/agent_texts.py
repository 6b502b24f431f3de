"""Agent transcripts, and what of them is a tool call: from the text and the tokenizer's own offsets.

Nothing of logitbox is used. A text is what the model sees of it: cut where its tokens are cut.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch

FILE = Path(__file__).with_name("agent_transcripts.jsonl")
BLOCK = re.compile(r"<function=[^>]+>.*?</function>", re.DOTALL)
FIRST_ANSWER = "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Transcript:
    """A tokenized text; `types` and `is_prompt` have an entry per token."""

    key: str
    text: str
    ids: list[int]
    types: list[str]
    is_prompt: list[bool]


@dataclass(frozen=True)
class AgentBatch:
    """Int64 tensors [B, T], and logits [B, T, V] once they are there; labels at padding are -100."""

    texts: tuple[Transcript, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    starts: tuple[int, ...]
    """Column of each row's first token."""


def transcripts(tokenizer, longest):
    """All texts of the file, cut at `longest` tokens."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [_transcript(tokenizer, json.loads(line), longest) for line in lines]


def _transcript(tokenizer, entry, longest):
    text = entry["text"] if "text" in entry else "".join(_turn(**turn) for turn in entry["messages"])
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = coded["input_ids"][:longest], coded["offset_mapping"][:longest]
    text = text[: offsets[-1][1]]
    blocks = [match.span() for match in BLOCK.finditer(text)]
    types = [
        "tool_call" if any(start < last and end > first for first, last in blocks) else "reasoning"
        for start, end in offsets
    ]
    answer = text.find(FIRST_ANSWER) + len(FIRST_ANSWER) if FIRST_ANSWER in text else 0
    return Transcript(entry["key"], text, ids, types, [end <= answer for _, end in offsets])


def _turn(role, content):
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def batch_of(tokenizer, texts, *, mask_prompt, pad_left):
    """A ragged batch. The padding is the end-of-turn token, as the tokenizer has it."""
    width = max(len(text.ids) for text in texts)
    input_ids = torch.full((len(texts), width), tokenizer.pad_token_id)
    mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, -100)
    starts = tuple(width - len(text.ids) if pad_left else 0 for text in texts)
    for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
        place = slice(start, start + len(text.ids))
        input_ids[row, place] = torch.tensor(text.ids)
        mask[row, place] = 1
        hidden = torch.tensor(text.is_prompt) & mask_prompt
        labels[row, place] = torch.where(hidden, -100, torch.tensor(text.ids))
    return AgentBatch(tuple(texts), input_ids, mask, labels, starts)
