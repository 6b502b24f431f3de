"""What the recorder says of schemes that cannot see all of the text."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from logitbox.dumps.recorder import Recorder
from logitbox.dumps.schemes.agent import AgentText

TOKENS = ["<pad>", "look ", "<function=ls>", "-la", "</function>", " done"]
IDS = torch.tensor([[1, 2, 3, 4, 5, 0]])
MASK = IDS != 0
LOGITS = torch.zeros(1, 6, len(TOKENS))


def recorder(path: Path) -> Recorder:
    return Recorder(path / "dump", vocab=TOKENS, types=AgentText(TOKENS))


def test_a_masked_prompt_without_input_ids_is_told_once(tmp_path: Path) -> None:
    labels = torch.where(IDS < 3, -100, IDS)  # the block begins in the prompt
    with recorder(tmp_path) as rec:
        with pytest.warns(RuntimeWarning, match="pass input_ids="):
            rec.record(LOGITS, labels, attention_mask=MASK)
        rec.record(LOGITS, labels, attention_mask=MASK)  # told once: a second warning would be an error
        assert rec.metrics()["tool_call_token_frac"] == 0
        rec.record(LOGITS, labels, input_ids=IDS, attention_mask=MASK)
        assert rec.metrics()["tool_call_token_frac"] == 2 / 3


def test_padding_alone_is_no_gap(tmp_path: Path) -> None:
    with warnings.catch_warnings(), recorder(tmp_path) as rec:
        warnings.simplefilter("error")
        rec.record(LOGITS, torch.where(MASK, IDS, -100), attention_mask=MASK)
        assert rec.metrics()["tool_call_token_frac"] == 3 / 4
