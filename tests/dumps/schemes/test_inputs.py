"""What schemes are given: shapes, devices, documents."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logitbox.dumps.flags import Flag
from logitbox.dumps.positions import layout, make_batch
from logitbox.dumps.schemes.agent import AgentText
from logitbox.dumps.schemes.coordinate import CoordinateJson
from logitbox.dumps.schemes.decision import DecisionSlot
from logitbox.dumps.schemes.inputs import Inputs
from logitbox.dumps.schemes.regex import RegexTypes
from logitbox.dumps.schemes.scheme import Scheme
from logitbox.dumps.spec import build_spec
from logitbox.dumps.vocabulary import Vocabulary, build_vocabulary
from logitbox.errors import InputError

VOCAB = ["<0>", "a", "b", "<c>", "Yes", "No"]
SCHEMES: list[Scheme] = [
    RegexTypes(VOCAB, {"letter": "[ab]"}, rest="other"),
    AgentText(VOCAB),
    CoordinateJson(VOCAB, [3]),
    DecisionSlot(VOCAB, {"yes": [4], "no": [5]}, after=None),
]


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_documents_are_those_of_the_recorder(data: st.DataObject) -> None:
    """A type and the boundary flag must not tell two stories of where a document begins."""
    rows, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7))
    cells = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=width, max_size=width)
    table = torch.tensor(data.draw(st.lists(cells, min_size=rows, max_size=rows)))
    position, mask = table[..., 0], table[..., 1]
    labels = torch.zeros(rows, width, dtype=torch.long)
    spec = build_spec(4, None, None, None, None, probes=False, lse_beta=False, scope="supervised")
    given_to_both = {"attention_mask": mask, "position_ids": position}
    batch = make_batch(torch.zeros(rows, width, 4), labels, spec, shift=False, **given_to_both)
    columns = layout(batch, spec).columns
    inputs = Inputs.read(labels, **given_to_both)
    assert inputs.document.tolist() == columns["doc"].reshape(rows, width).tolist()
    starts = torch.tensor(inputs.document).diff(dim=1, prepend=torch.zeros(rows, 1, dtype=torch.long)) > 0
    assert starts.flatten().tolist() == ((columns["flags"] & int(Flag.BOUNDARY)) > 0).tolist()


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_every_scheme_keeps_the_interface(scheme: Scheme) -> None:
    assert isinstance(scheme, Scheme)
    ids = torch.tensor([[1, 3, 4, 0], [2, 5, -100, 4]], dtype=torch.int32)
    labels = torch.tensor([[-100, 3, 4, -100], [2, 5, -100, -100]])
    masks = scheme.masks(ids, labels=labels, attention_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]))
    assert tuple(masks) == scheme.types.names
    for mask in masks.values():
        assert (mask.dtype, mask.shape, mask.device.type) == (torch.bool, ids.shape, "cpu")
    known = torch.tensor([[True, True, True, False], [True, True, False, True]])
    if scheme.types.partition:
        assert torch.stack([*masks.values()]).sum(dim=0).equal(known.long())
    assert not any((mask & ~known).any() for mask in masks.values())  # gaps and padding have no type
    copy = pickle.loads(pickle.dumps(scheme))  # as a DataLoader's workers get it
    again = copy.masks(ids, labels=labels, attention_mask=known)
    assert all(again[name].equal(mask) for name, mask in masks.items())


@pytest.mark.parametrize("shape", [(0, 0), (2, 0), (0, 3)])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_empty_batches(scheme: Scheme, shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape, dtype=torch.long)
    masks = scheme.masks(empty, empty, empty, empty)
    assert {mask.shape for mask in masks.values()} == {torch.Size(shape)}


@pytest.mark.parametrize("name", ["input_ids", "labels", "attention_mask", "position_ids"])
def test_nothing_waits_for_a_device(name: str) -> None:
    given_it = {"input_ids": torch.zeros(1, 2, dtype=torch.long)}
    given_it[name] = torch.zeros(1, 2, dtype=torch.long, device="meta")  # any device but the CPU
    with pytest.raises(
        InputError, match=rf"{name} is on meta.*`scheme\.masks\(\.\.\.\)` on the CPU ids in the"
    ):
        SCHEMES[0].masks(**given_it)


def test_wrong_inputs() -> None:
    scheme, ids = SCHEMES[0], torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(InputError, match=r"shape \[3\]; give \[B, T\]"):
        scheme.masks(ids[0])
    with pytest.raises(InputError, match=r"torch\.float32; give integer token ids"):
        scheme.masks(ids.float())
    with pytest.raises(InputError, match=r"torch\.bool; give integer"):
        scheme.masks(ids.bool())
    with pytest.raises(InputError, match="is a list; give a torch tensor"):
        scheme.masks(ids.tolist())  # pyright: ignore[reportArgumentType]
    for name in ("labels", "attention_mask", "position_ids"):
        with pytest.raises(InputError, match=rf"{name} has shape \[2, 2\]; it must be \[2, 3\]"):
            scheme.masks(ids, **{name: ids[:, :2]})


def test_masks_of_any_dtype() -> None:
    ids, mask = torch.tensor([[1, 0]]), torch.tensor([[1, 0]])
    for dtype in (torch.bool, torch.uint8, torch.float32, torch.bfloat16):
        assert SCHEMES[0].masks(ids, attention_mask=mask.to(dtype))["other"].tolist() == [[False, False]]
    assert SCHEMES[0].masks(ids)["other"].tolist() == [[False, True]]


def test_vocabularies() -> None:
    ids = torch.tensor([[1, 5, 6, 7]])
    padded = build_vocabulary(VOCAB, 8)  # embeddings padded beyond the tokenizer: no text there
    masks = RegexTypes(padded, {"letter": "[ab]"}, rest="other").masks(ids)
    assert masks["letter"].tolist() == [[True, False, False, False]]
    assert masks["other"].tolist() == [[False, True, False, False]]
    for bare in (Vocabulary(7), build_vocabulary(7)):
        with pytest.raises(InputError, match=r"vocab has 7 ids without text.*give the tokenizer"):
            AgentText(bare)


LIGHT = """
import sys
import logitbox.dumps.schemes.answers, logitbox.dumps.schemes.scheme
assert "torch" not in sys.modules
import logitbox.dumps.schemes.combine, logitbox.dumps.schemes.regex, logitbox.dumps.schemes.agent
import logitbox.dumps.schemes.coordinate, logitbox.dumps.schemes.decision
heavy = {"transformers", "tokenizers", "polars", "pandas", "sklearn", "matplotlib"} & set(sys.modules)
sys.exit(f"{heavy} came along" if heavy else 0)
"""


def test_imports_are_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
