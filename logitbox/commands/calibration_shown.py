"""How the command line shows a calibration: for a reader who has not read the docs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from logitbox.analysis.calibration import CalibrationTable
from logitbox.analysis.populations import ALL
from logitbox.commands.calibrated import COMPUTED, Row, by_of, key_of
from logitbox.terminal import Cell, plain_cell, print_cells, print_small, print_verdict

_COMMON = ("tokens", "says it is sure", "is right", "over-/under- confident by", "ECE", "of which noise")


def print_calibration(
    result: CalibrationTable,
    rows: Sequence[Row],
    ranked: pl.DataFrame | None,
    temperatures: Sequence[Row] | None,
    measures: Sequence[Row] | None,
    *,
    with_table: bool,
) -> None:
    """The table, how to read it, whatever else was asked for, and the verdict last."""
    if rows:
        _print_rows(result, rows)
    if ranked is not None:
        _print_worst(ranked)
    if temperatures is not None:
        _print_heats(result, temperatures)
    if measures is not None:
        _print_measures(result, measures)
    is_single = not by_of(result) and result.frame["phase"].n_unique() == 1
    if with_table or (is_single and measures is None):
        _print_bins(result)
    print_small("")
    print_verdict(str(result))


def _print_rows(result: CalibrationTable, rows: Sequence[Row]) -> None:
    columns = dict.fromkeys(("phase", *by_of(result), "type"), False)
    columns |= dict.fromkeys((*_COMMON, "nll", "entropy gap"), True)
    print_cells(columns, [[*_keys(result, row), *_values(row)] for row in rows])
    for line in _legend(result, rows):
        print_small(line)


def _keys(result: CalibrationTable, row: Mapping[str, Any]) -> list[str]:
    key = key_of(result, row)
    return [*(plain_cell(value) for value in list(key.values())[:-1]), key["type"] or "(all)"]


def _common(row: Mapping[str, Any]) -> list[Cell]:
    """Cells under `_COMMON`."""
    ece = (f"{row['ece']:.4f}", _range(row["ece_low"], row["ece_high"], lambda value: f"{value:.4f}"))
    noise = "–" if row["ece_noise"] is None else f"{row['ece_noise']:.4f}"
    return [f"{row['n']:,}", percent(row["confidence"]), percent(row["accuracy"]), _lean(row), ece, noise]


def _values(row: Mapping[str, Any]) -> list[Cell]:
    nll = "–" if row["nll"] is None else _nats(row["nll"])
    gap = "–" if row["entropy_gap"] is None else f"{row['entropy_gap']:+.4f}".replace("-", "−")
    return [*_common(row), nll, gap]


def _nats(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "∞"


def percent(share: float) -> str:
    """A share in percent; near 0 and 1, where most tokens are, with one more digit."""
    return f"{100 * share:.{1 if 0.01 <= share <= 0.99 else 2}f} %"


def _lean(row: Mapping[str, Any]) -> Cell:
    """`over by 4.1 [3.2, 5.0]`, in percentage points."""
    sign = -1 if row["overconfidence"] < 0 else 1
    low, high = row.get("overconfidence_low"), row.get("overconfidence_high")
    digits = 1 if abs(row["overconfidence"]) >= 0.01 else 2

    def points(value: float) -> str:
        return f"{100 * sign * value:.{digits}f}".replace("-", "−")

    ends = (low, high) if sign > 0 else (high, low)
    return f"{'over' if sign > 0 else 'under'} {points(row['overconfidence'])}", _range(*ends, points)


def _range(low: float | None, high: float | None, told: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f"[{told(low)}, {told(high)}]"


def _legend(result: CalibrationTable, rows: Sequence[Row]) -> list[str]:
    """How to read the table, in plain words."""
    lines = [
        "says it is sure: the mean probability of the model's first choice, p(arg-max); is right: how often that choice is right.",
        "over (under): more (less) sure than right, by so many percentage points.",
        f"ECE, the calibration error: how far the two are apart, averaged over tokens within {result.bins} bins of confidence; 0 is perfect. Of which noise: the ECE that chance alone would give a perfectly calibrated model on so many tokens.",
        "nll: mean −ln p(gold), nats. entropy gap: nll − entropy; above 0 the model is more often surprised than it expects (over-confident), below 0 less often.",
        "[ , ]: 95 % interval, over samples; one that holds 0 can be chance.",
    ]
    if all(row["overconfidence_low"] is None for row in rows):
        lines[-1] = "No intervals: too many rows, or fewer than two samples."
    if any(row["type"] for row in rows):
        lines.append("(all): every token; types may overlap.")
    lines += [f"{name}: {about}." for name, about in COMPUTED.items() if name in by_of(result)]
    # Each token is in one row of all tokens.
    lost = sum(row["left_out"] for row in result.frame.filter(pl.col("type") == ALL).iter_rows(named=True))
    if lost:
        lines.append(f"Left out everywhere: {lost:,} tokens with NaN or infinite values.")
    error = max((row.get("ece_error") or 0.0 for row in rows), default=0.0)
    if error:
        lines.append(
            f"{result.bins} bins do not fit the recorded histogram: ECE may be off by {error:.1e} at most."
        )
    return ["", *lines]


def _print_worst(ranked: pl.DataFrame) -> None:
    keys = ranked.columns[: ranked.columns.index("n")]
    rows: list[list[Cell]] = []
    for row in ranked.iter_rows(named=True):
        told = [(row[name] or "(all)") if name == "type" else plain_cell(row[name]) for name in keys]
        rows.append([*told, *_common(row), _p(row["p"]), _p(row["p_adjusted"])])
    columns = dict.fromkeys(keys, False) | dict.fromkeys((*_COMMON, "p", "p, corrected"), True)
    print_cells(columns, rows, "\nWorst calibrated subgroups")
    print_small(
        "p: how often a calibrated subgroup would show so large an ECE; corrected: for having looked at them all."
    )
    for note in ranked["note"].unique(maintain_order=True).to_list():
        if note:
            print_small(f"– {note}")


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value >= 1e-3 else "< 0.001"


def _print_heats(result: CalibrationTable, heats: Sequence[Row]) -> None:
    """Best temperature and what it would bring; what is only bounded is told as bounds."""
    columns = dict.fromkeys(("phase", *by_of(result), "type"), False)
    columns |= dict.fromkeys(("temperature", "nll as it is", "nll at it", "saved"), True) | {"": False}
    rows: list[list[Cell]] = [[*_keys(result, row), *_heat_cells(row)] for row in heats]
    print_cells(columns, rows, "\nBest temperature T")
    print_small("T: what to divide the logits by for the least nll; above 1 the model is over-confident.")
    for reason in dict.fromkeys(row["reason"] for row in heats if row["reason"]):
        print_small(f"– {reason}")


def _heat_cells(row: Mapping[str, Any]) -> list[Cell]:
    if row["nll_before"] is None:
        return ["–", "–", "–", "–", ""]
    before = _nats(row["nll_before"])
    if row["temperature"] is None:
        between = f"{row['low']:.2f} to {row['high']:.2f}"
        low, high = max(row["nll_low"], 0.0), max(row["nll_high"], 0.0)
        saved = f"{max(row['nll_before'] - high, 0):.4f} to {row['nll_before'] - low:.4f}"
        return [between, before, f"{low:.4f} to {high:.4f}", saved, "bounds only"]
    note = "at the end of what is known" if row["at_edge"] else ""
    saved = "–" if row["nll"] is None else f"{row['nll_before'] - row['nll']:.4f}"
    after = "–" if row["nll"] is None else f"{row['nll']:.4f}"
    return [f"{row['temperature']:.3f}", before, after, saved, note]


def _print_measures(result: CalibrationTable, measures: Sequence[Row]) -> None:
    columns = {"measure": False, "value": True, "95 % interval": True, "off by at most": True}
    for number, row in enumerate(measures):
        # What they are is the same in every table.
        about = {} if number else {"what it is": False}
        cells = [[*_measure_cells(one), *(one["about"] for _ in about)] for one in row["measures"]]
        print_cells(columns | about, cells, f"\n{' · '.join(_keys(result, row))}: every measure")
    print_small("off by at most: as the dump's histogram stands for its tokens; nothing where it is exact.")


def _measure_cells(one: Mapping[str, Any]) -> list[Cell]:
    error = f"± {one['error']:.1e}" if one["error"] else ""
    interval = _range(one["low"], one["high"], plain_cell)
    return [one["measure"], plain_cell(one["value"]), interval, error]


def _print_bins(result: CalibrationTable) -> None:
    keys = [name for name in ("phase", *by_of(result)) if result.table[name].n_unique() > 1]
    table = result.table.filter(pl.col("type") == ALL)
    rows: list[list[Cell]] = []
    for row in table.iter_rows(named=True):
        lean = _lean({"overconfidence": row["confidence"] - row["accuracy"]})
        shares = (percent(row["confidence"]), percent(row["accuracy"]))
        told = [plain_cell(row[name]) for name in keys]
        rows.append([*told, f"{row['low']:.3f} to {row['high']:.3f}", f"{row['n']:,}", *shares, lean])
    columns = dict.fromkeys((*keys, "confidence"), False) | dict.fromkeys(_COMMON[:4], True)
    print_cells(columns, rows, "\nReliability, all tokens by confidence")
