import numpy as np
import pytest

from logitbox.demo.evaluation import digits_needed, draw_eval_scenes, sample_columns
from logitbox.demo.scenes import SceneConfig, draw_digit, draw_scenes, random_picks, split_digits

CONFIG = SceneConfig()


@pytest.fixture(scope="module")
def digits():
    return split_digits(n_eval=384, seed=0)


@pytest.fixture(scope="module")
def scenes(digits):
    rng = np.random.default_rng(3)
    return draw_scenes(digits[0], random_picks(digits[0], 200, rng, CONFIG), rng, CONFIG)


def test_train_and_eval_share_no_digit_image(digits):
    train, held_out = digits
    assert not set(train.ids) & set(held_out.ids)
    assert len(train.ids) + len(held_out.ids) == 1797
    assert len(held_out.ids) == 384


def test_boxes_are_in_range_and_ordered(scenes):
    boxes = np.array([item.box for items in scenes.items for item in items])
    assert boxes.min() >= 0
    assert boxes.max() <= 999
    assert (boxes[:, 2] > boxes[:, 0]).all()
    assert (boxes[:, 3] > boxes[:, 1]).all()


def test_boxes_contain_the_ink_and_fit_it_tightly(scenes):
    for image, items in zip(scenes.images[:, 0].numpy(), scenes.items, strict=True):
        covered = np.zeros_like(image, dtype=bool)
        for item in items:
            # Boxes are rounded to bins (0.02 pixel): a pixel that the rounded box touches may hold ink.
            x1, y1, x2, y2 = (value / 999 * CONFIG.canvas for value in item.box)
            half = 0.5 / 999 * CONFIG.canvas
            rows = slice(int(y1 - half), int(np.ceil(y2 + half)))
            columns = slice(max(0, int(x1 - half)), int(np.ceil(x2 + half)))
            covered[rows, columns] = True
            inside = image[rows, columns]
            inked_rows, inked_columns = inside.any(axis=1), inside.any(axis=0)
            # Tight: ink reaches the outermost pixels, but for one the box may only graze by rounding.
            assert inked_rows[:2].any()
            assert inked_rows[-2:].any()
            assert inked_columns[:2].any()
            assert inked_columns[-2:].any()
        assert not image[~covered].any()
        assert image.min() >= 0
        assert image.max() <= 1 + 1e-6


def test_two_digits_stand_apart_from_left_to_right(scenes):
    pairs = [items for items in scenes.items if len(items) == 2]
    assert 60 < len(pairs) < 140
    assert all(left.box[2] <= right.box[0] for left, right in pairs)


def test_drawing_keeps_the_ink(digits):
    image = digits[0].images[0]
    box = np.array([3.3, 5.1, 17.8, 30.2], dtype=np.float32)
    drawn = draw_digit(image, box, canvas=40)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    cell = (
        (17.8 - 3.3) / np.ptp([columns[0], columns[-1] + 1]) * (30.2 - 5.1) / np.ptp([rows[0], rows[-1] + 1])
    )
    assert drawn.sum() == pytest.approx(image.sum() * cell, rel=1e-5)


def test_eval_scenes_repeat_no_digit_and_are_stable(digits):
    held_out = digits[1]
    first, second = (draw_eval_scenes(held_out, 256, np.random.default_rng(1), CONFIG) for _ in range(2))
    used = [index for ids in first.digit_ids for index in ids]
    assert len(used) == len(set(used)) == digits_needed(256) == 384
    assert set(used) <= set(held_out.ids)
    assert first.items == second.items
    assert first.images.equal(second.images)
    columns = sample_columns(first)
    assert columns["sample"] == list(range(256))
    assert columns["source"].count("one digit") == columns["source"].count("two digits") == 128
