"""What `by=` may name."""

from __future__ import annotations

import numpy as np
import pytest
from analysis_oracle import COORD, OPTIONS, Log, V, scored

from logitbox.analysis.metrics import metrics
from logitbox.dumps.dump import open_dump
from logitbox.dumps.recorder import Recorder
from logitbox.errors import InputError


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("sorce", "by names 'sorce', which is a column of neither tokens nor samples; samples have .*source"),
        ("types", "cannot be split by; use 'type'"),
        ("entropy", "cannot be split by"),
        ("top_ids", "cannot be split by"),
        ("input_ids", r"List\(Int32\)"),
        ("key", "use 'sample'"),
        ([3], "by holds 3, a int"),
    ],
)
def test_what_cannot_be_split_by(dump, by, message):
    with pytest.raises(InputError, match=message):
        metrics(dump, by)


@pytest.mark.parametrize(
    "name",
    ["n", "type", "nll", "bin", "clusters", "spec", "value", "is_coord", "coord.w1", "mass_coord", "tfa"],
)
def test_user_columns_named_like_ours_are_refused(tmp_path, name):
    rng, log = np.random.default_rng(0), Log()
    with Recorder(tmp_path / "d", V, groups={"coord": COORD}, ordered={"coord": OPTIONS},
                  types=["coord", "desc", "format"]) as rec:  # fmt: skip
        log.record(rec, rng)
        rec.samples({"sample": list(range(6)), name: ["x"] * 6})
    dump = open_dump(tmp_path / "d")
    if name == "type":  # ours, always there
        assert set(metrics(dump, name).frame["type"]) == {"", "coord", "desc", "format", "text"}
        return
    with pytest.raises(InputError, match=f"by names '{name}'"):
        metrics(dump, name)
    # Not named in by, it does no harm.
    assert metrics(dump).value("n_tokens") == sum(scored(t)["finite"] for t in log.tokens)
