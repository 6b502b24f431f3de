"""Series made of lists of values, one an epoch."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logitbox.analysis.doctor.diagnosis import Finding, diagnose
from logitbox.analysis.doctor.loading import shipped
from logitbox.analysis.doctor.locating import Source
from logitbox.analysis.doctor.parsing import parse
from logitbox.analysis.doctor.profile import Profile
from logitbox.analysis.doctor.series import Facts, Series, series_frame

Values = Mapping[str, Sequence[float]]


def series(values: Values, start: float = 1, half: float | None = None, classes: int | None = 8) -> Series:
    """Values of successive epochs, 100 steps each; intervals of ± half."""
    rows = [
        {
            "key": key,
            "step": round(100 * (start + i)),
            "epoch": float(start + i),
            "value": float(value),
            "low": None if half is None else value - half,
            "high": None if half is None else value + half,
            "n": 50,
        }
        for key, given in values.items()
        for i, value in enumerate(given)
    ]
    return Series(series_frame(rows), Facts("made up", classes, has_logits=True))


def finding(profile: Profile, rule: str, run: Series, **constants: float) -> Finding:
    """What one rule says of a run."""
    return diagnose(run, profile, constants).finding(rule)


def judged(rule: str, run: Series, head: str = "", **constants: float) -> Finding:
    """What a rule written out in TOML says of a run."""
    text = f'{head}\n[[rule]]\nname = "r"\ntitle = "t"\n{rule}'
    return finding(parse(Source("test.toml", text)), "r", run, **constants)


def cases(profile: str) -> list[dict[str, Any]]:
    """The cases of a shipped profile."""
    path = Path(__file__).parent / f"cases_{profile.replace('-', '_')}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["case"]


PROFILES = {name: shipped(name) for name in ("classification", "language-model")}
