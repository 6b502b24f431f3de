"""Token bytes, from the tokenizers people have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.dumps.text import TokenText
from logitbox.dumps.vocabulary import Vocabulary, build_vocabulary
from logitbox.errors import InputError

Make = Callable[..., Recorder]
TEXT = "Größe: 12€ – naïve\n\t日本語 🙂"


def test_sizes() -> None:
    assert build_vocabulary(7) == Vocabulary(7)
    assert build_vocabulary(np.int64(7), 9) == Vocabulary(9)
    assert build_vocabulary(["a", b"\xff"], 5) == Vocabulary(5, (b"a", b"\xff"))


def test_byte_level_tokenizer() -> None:
    """Every byte of any text comes back, from a real byte-level tokenizer trained here."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator(
        [TEXT * 3], vocab_size=300, special_tokens=["<s>", "Ġ<add>"], show_progress=False
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, bos_token="<s>")
    vocabulary = build_vocabulary(tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(vocabulary.tokens[i] for i in ids) == TEXT.encode()
    assert vocabulary.tokens[:2] == (b"<s>", "Ġ<add>".encode())  # added tokens are text, not encoded bytes
    assert vocabulary.bos == 0
    assert vocabulary.eos is None
    assert vocabulary.size == len(tokenizer)


def test_sentencepiece_pieces() -> None:
    class Pieces:
        all_special_ids = (0,)
        bos_token_id = eos_token_id = None

        def __len__(self) -> int:
            return 5

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
            return [["<s>", "▁Hello", "<0xE2>", "<0x82>", None][i] for i in ids]

    assert build_vocabulary(Pieces()).tokens == (b"<s>", b" Hello", b"\xe2", b"\x82", b"")


def test_fingerprint_tells_vocabularies_apart() -> None:
    tokens = [["a", "bc"], ["ab", "c"], ["bc", "a"], ["a", "bc", ""]]
    prints = {build_vocabulary(t).fingerprint for t in tokens} | {build_vocabulary(2).fingerprint}
    assert len(prints) == 5
    assert build_vocabulary(["a", "bc"]).fingerprint == build_vocabulary([b"a", b"bc"]).fingerprint


def test_dump_can_be_read_without_the_tokenizer(recorder: Make, path: Path) -> None:
    tokens: list[str | bytes] = ["<s>", "Gr", "ö".encode()[:1], "ö".encode()[1:], "ße\n"]
    for _ in range(2):
        with recorder(tokens, vocab_size=8) as rec:
            rec.record(torch.randn(2, 8), torch.tensor([1, 7]))
    dump = open_dump(path)
    assert dump.text.decode([1, 2, 3, 4]) == "Größe\n"
    assert [dump.text.piece(i) for i in (1, 2, 4, 7)] == ["Gr", "\\xc3", "ße\\n", "<7>"]
    assert dump.vocab.collect()["id"].to_list() == [0, 1, 2, 3, 4]
    assert len(dump.shards("vocab")) == 1  # the second session need not write it again


def test_vocabulary_lost_in_a_crash_is_written_by_the_next_session(recorder: Make, path: Path) -> None:
    with recorder(["a", "b"]) as rec:
        owner = rec.session.owner
    journal = path / "sessions" / owner / "journal.jsonl"
    journal.write_text("")  # as if killed before the first shard
    recorder(["a", "b"]).close()
    assert open_dump(path).text.decode([0, 1]) == "ab"


@pytest.mark.parametrize(("other", "why"), [(["a", "c"], "other tokens"), (3, "2 tokens, not 3")])
def test_a_dump_has_one_vocabulary(recorder: Make, path: Path, other: object, why: str) -> None:
    """Ids of two tokenizers under one roof would show the wrong text."""
    recorder(["a", "b"]).close()
    with pytest.raises(InputError, match=f"another vocabulary .{why}.*give another folder"):
        recorder(other)
    recorder(2).close()  # the size alone contradicts nothing
    assert [session.session[:4] for session in open_dump(path).sessions] == ["0001", "0002"]


def test_bytes_that_are_no_text() -> None:
    text = TokenText([b"\xff", b"a"])
    assert text.decode([0, 1, 5, -1]) == "�a<5><-1>"
