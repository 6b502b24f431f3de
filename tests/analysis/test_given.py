"""What is no dump is told so; steps that two sessions recorded are told, not passed over."""

from __future__ import annotations

import pytest
import torch

import logitbox as lb
from logitbox.analysis.given import repeated_steps
from logitbox.analysis.overview import overview
from logitbox.errors import InputError


@pytest.mark.parametrize(
    "analysis", [lb.metrics, lb.calibration, lb.flips, lb.explain, lb.high_entropy, overview]
)
def test_a_path_is_told_to_be_opened(analysis):
    with pytest.raises(InputError, match=r"dump is 'runs/a', a str; open it first: lb.open\('runs/a'\)"):
        analysis("runs/a")


def record(path, steps, **options):
    with lb.Recorder(path, 9, **options) as rec:
        for step in steps:
            rec.record(torch.randn(4, 9), torch.randint(0, 9, (4,)), step=step)


def test_a_run_started_again_in_the_same_folder_is_told(tmp_path):
    path = tmp_path / "lr=[1e-4]"
    record(path, [0, 1, 2])
    assert repeated_steps(lb.open(path)) == 0
    record(path, [2, 3])
    dump = lb.open(path)
    assert repeated_steps(dump) == 1
    assert "1 steps were recorded by more than one session and count more than once" in str(lb.metrics(dump))
    assert "count more than once" in str(overview(dump))
    assert "count more than once" in lb.report(dump, tmp_path / "r.html").read_text()


def test_a_resumed_run_repeats_nothing(tmp_path):
    path = tmp_path / "a[b]"
    record(path, [0, 1, 2])
    record(path, [1, 2, 3], resume_from=1)
    dump = lb.open(path)
    assert repeated_steps(dump) == 0
    assert lb.metrics(dump).value("n_tokens") == 16
    assert "2 steps" not in str(lb.metrics(dump))
    assert "replaced when training was resumed" in lb.report(dump, tmp_path / "r.html").read_text()
