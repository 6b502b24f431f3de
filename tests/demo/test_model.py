import torch

from logitbox.demo.model import DigitReader, ModelConfig, ordered_rows
from logitbox.demo.tokens import Item, collate


def test_logits_depend_on_earlier_tokens_and_the_picture_only():
    torch.manual_seed(0)
    model = DigitReader(ModelConfig(width=32, channels=16, blocks=1)).eval()
    images = torch.rand(2, 1, 40, 40)
    ids = collate([(Item(4, (1, 2, 3, 4)),), (Item(9, (5, 6, 7, 8)),)]).input_ids
    with torch.no_grad():
        logits = model(images, ids)
        changed = ids.clone()
        changed[:, 6:] = 0
        assert logits.shape == (*ids.shape, 1024)
        torch.testing.assert_close(model(images, changed)[:, :6], logits[:, :6])
        assert not model(images.flip(0), ids).allclose(logits)


def test_neighbouring_bins_start_out_alike():
    rows = torch.nn.functional.normalize(ordered_rows(1000, 128), dim=-1)
    near = (rows[:-1] * rows[1:]).sum(dim=-1)
    far = (rows[:-100] * rows[100:]).sum(dim=-1)
    assert near.min() > 0.9
    assert far.abs().max() < near.min()
    assert len(rows.unique(dim=0)) == 1000
