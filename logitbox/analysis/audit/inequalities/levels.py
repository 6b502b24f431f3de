"""Series that jump from one level to another and stay there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from logitbox.analysis.audit.inequalities.table import Table
from logitbox.analysis.audit.result import Notice

_WINDOW, _LEAST = 8, 40
_CLEAR = 2.0
"""The gap between the values before and after, in ranges of either: slopes and noise stay far below."""


def level_shifts(table: Table) -> Iterator[Notice]:
    """Jumps of long series, the largest of each: new data, another epoch, a resume, or another way to count."""
    for key in table.meanings:
        if key not in table.columns:
            continue
        value = table.columns[key].value
        known = np.flatnonzero(np.isfinite(value))
        if len(known) < _LEAST:
            continue
        windows = sliding_window_view(value[known], _WINDOW)
        low, high, middle = windows.min(1), windows.max(1), np.median(windows, 1)
        gap = np.maximum(low[_WINDOW:] - high[:-_WINDOW], low[:-_WINDOW] - high[_WINDOW:])
        spread = np.maximum((high - low)[_WINDOW:], (high - low)[:-_WINDOW])
        scale = 1e-3 * np.maximum(np.abs(middle[_WINDOW:]), np.abs(middle[:-_WINDOW]))
        clear = gap / np.maximum(spread, scale + 1e-12)
        if (clear > _CLEAR).any():
            worst = int(np.argmax(clear))
            told = (
                f"{key} jumps from about {middle[worst]:.4g} to about {middle[worst + _WINDOW]:.4g} and stays there: new data, "
                "a new epoch, a resume, or another way to count."
            )
            yield table.notice("level-shift", int(known[worst + _WINDOW]), (key,), told)
