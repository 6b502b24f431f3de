import pytest
import torch

from logitbox.demo.logs import LogWindow
from logitbox.dumps.losses import CompositeLoss


def batch(n_tokens, n_right):
    labels = torch.tensor([[-100] + [1] * n_tokens])
    logits = torch.zeros(1, n_tokens + 1, 2)
    logits[0, :n_right, 1] = 1.0
    logits[0, n_right:, 0] = 1.0
    return CompositeLoss(*torch.full((8,), float(n_tokens))), logits, labels


def test_means_are_averages_of_averages_and_the_pooled_accuracy_is_not():
    window = LogWindow()
    window.add(*batch(n_tokens=10, n_right=10))
    window.add(*batch(n_tokens=2, n_right=1))
    assert window.means()["token_acc"] == pytest.approx(0.75)
    assert window.means()["loss"] == pytest.approx(6.0)
    assert window.pooled_accuracy() == pytest.approx(11 / 12)
