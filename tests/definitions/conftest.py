"""The oracle of the analyses is that of the definitions."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "analysis")]  # for `scenario` and `analysis_oracle`
