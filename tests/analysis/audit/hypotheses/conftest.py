"""Runs made of numbers, and what trainers would log of them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # for `audit_run`, `audit_tokens` and `audit_oracles`
