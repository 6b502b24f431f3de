"""Clean runs are never convicted; the page's own script says how often in thousands (`scripts/audit_power.py`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "audit_power.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_power", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_runs_that_log_token_means_are_cleared(script: ModuleType) -> None:
    runs = 30
    counted = script.clean(np.random.default_rng(7), runs)
    assert counted["violations"] == 0
    assert counted["agrees"] + counted["cannot tell"] == runs * (len(script.KEYS) + 1)
    assert counted["agrees"] > 2 * runs  # else nothing was compared


def test_what_a_simulated_trainer_logs_is_named(script: ModuleType) -> None:
    """One run with each convention, printed with 6 digits: nothing else is told, and 20 lines tell it."""
    found = script.power(np.random.default_rng(8), 1)
    assert set(found) == set(script.CONVENTIONS)
    for name, cells in found.items():
        assert cells[20, 6]["named"] == 1, name
        assert not any(cell["mistaken"] for cell in cells.values()), name
