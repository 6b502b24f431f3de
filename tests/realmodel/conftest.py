"""Lets the tests import `scripts/smollm2.py` and the references beside them, and loads the model once for all."""

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "scripts")]

import record_classifiers  # noqa: E402 (found through the line above)
import smollm2  # noqa: E402


@pytest.fixture(scope="session")
def tokenizer():
    torch.set_num_threads(min(2, torch.get_num_threads()))
    return smollm2.load_tokenizer()


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory):
    """Where the four runs on handwritten digits are recorded, kind to path."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # models this small only lose by more
    folder = tmp_path_factory.mktemp("classifiers")
    for kind in record_classifiers.KINDS:
        record_classifiers.record(kind, folder / kind)
    torch.set_num_threads(threads)
    return {kind: folder / kind for kind in record_classifiers.KINDS}


@pytest.fixture(scope="session")
def model(tokenizer):
    return smollm2.load_model()
