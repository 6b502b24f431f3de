"""Lets the tests import `scripts/smollm2.py` and the references beside them, and loads the model once for all."""

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "scripts")]

import smollm2  # noqa: E402 (found through the line above)


@pytest.fixture(scope="session")
def tokenizer():
    torch.set_num_threads(min(2, torch.get_num_threads()))
    return smollm2.load_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    return smollm2.load_model()
