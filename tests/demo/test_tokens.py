import json
import re

import torch

from logitbox.demo.tokens import (
    BOS,
    COORD_IDS,
    DIGIT_NAMES,
    EOS,
    PAD,
    TOKENS,
    TYPES,
    Item,
    collate,
    decode,
    encode,
)

ONE = (Item(7, (312, 87, 540, 320)),)
TWO = (Item(1, (0, 5, 20, 999)), Item(3, (400, 1, 998, 60)))


def parse(text):
    return json.loads(re.sub(r"<(\d+)>", r"\1", text))


def test_vocabulary_is_unique_with_contiguous_coordinates():
    assert len(set(TOKENS)) == len(TOKENS) == 1024
    assert [TOKENS[index] for index in COORD_IDS] == [f"<{value}>" for value in range(1000)]
    assert DIGIT_NAMES == ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def test_a_scene_decodes_back():
    assert decode(encode(ONE)) == '[{"desc":"seven","bbox":[<312>,<87>,<540>,<320>]}]'
    assert parse(decode(encode(TWO))) == [
        {"desc": "one", "bbox": [0, 5, 20, 999]},
        {"desc": "three", "bbox": [400, 1, 998, 60]},
    ]
    assert encode(ONE)[0] == BOS
    assert encode(ONE)[-1] == EOS


def test_every_digit_name_is_written_with_desc_tokens_only():
    for digit, name in enumerate(DIGIT_NAMES):
        batch = collate([(Item(digit, (1, 2, 3, 4)),)])
        assert "".join(TOKENS[index] for index in batch.input_ids[batch.types["desc"]]) == name


def test_types_partition_the_supervised_tokens():
    batch = collate([ONE, TWO])
    supervised = batch.labels != -100
    assert set(batch.types) == set(TYPES)
    assert torch.stack(list(batch.types.values())).sum(dim=0).equal(supervised.long())
    assert batch.types["coord"].sum(dim=1).tolist() == [4, 8]
    assert batch.types["format"][batch.input_ids == EOS].all()


def test_padding_and_bos_are_ignored_and_labels_are_not_shifted():
    batch = collate([ONE, TWO])
    ignored = (batch.input_ids == PAD) | (batch.input_ids == BOS)
    assert (batch.labels[ignored] == -100).all()
    assert batch.labels[~ignored].equal(batch.input_ids[~ignored])
    assert batch.attention_mask.equal(batch.input_ids != PAD)
    assert batch.attention_mask.sum(dim=1).tolist() == [len(encode(ONE)), len(encode(TWO))]
