"""docs/calibration.md says what the registry of measures says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from logitbox.analysis.calibration import Calibration
from logitbox.analysis.calibration.measures import MEASURES

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_has_every_measure_as_the_code_defines_it():
    spec = importlib.util.spec_from_file_location("measures", ROOT / "scripts" / "calibration_measures.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "calibration.md").read_text()
    assert script.written(page) == page


def test_every_measure_is_a_field():
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
    for measure in MEASURES:
        assert isinstance(getattr(Calibration, measure.name), property)
