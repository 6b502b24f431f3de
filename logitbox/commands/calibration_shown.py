"""How the command line shows a calibration: for a reader who has not read the docs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from logitbox.analysis.calibration import CalibrationTable
from logitbox.analysis.calibration.dumped import steps_of
from logitbox.analysis.calibration.temperatures import COOLEST, HOTTEST
from logitbox.analysis.calibration.words import points
from logitbox.analysis.populations import ALL
from logitbox.commands.calibrated import COMPUTED, Row, by_of, key_of
from logitbox.commands.measures_told import HINT, PLAIN
from logitbox.terminal import Cell, plain_cell, print_cells, print_small, stdout_console

if TYPE_CHECKING:
    from logitbox.analysis.calibration.differences import CalibrationDifference

_COMMON = ("tokens", "says it is sure", "is right", "over-/under- confident by", "ECE", "by chance")
_SPARE = ("nll", "entropy gap")
"""Columns that a narrow terminal does not show."""

_LAST = ("says it is sure", "is right")
"""Columns that go where nothing else helps; the next one is their difference."""

_SIGNIFICANT = 0.05
_WIDE_ENOUGH = 130
"""Columns from which on descriptions stand beside measures instead of below."""


def print_calibration(
    result: CalibrationTable,
    rows: Sequence[Row],
    ranked: tuple[pl.DataFrame, int] | None,
    temperatures: Sequence[Row] | None,
    measures: Sequence[Row] | None,
    *,
    with_table: bool,
) -> None:
    """The table, how to read it, whatever else was asked for, and the verdict last.

    Args:
        result: the calibration.
        rows: of its frame that are shown.
        ranked: all subgroups, worst first, and how many of them to show.
        temperatures: of each row.
        measures: of each row.
        with_table: the reliability table too.
    """
    if rows:
        _print_rows(result, rows)
    if ranked is not None:
        _print_worst(*ranked)
    if temperatures is not None:
        _print_heats(result, temperatures)
    if measures is not None:
        _print_measures(result, measures)
    is_single = not by_of(result) and result.frame["phase"].n_unique() == 1
    if with_table or (is_single and measures is None):
        _print_bins(result)
    elif rows:
        print_small("The reliability table, bin by bin: --table.")
    print_small("")
    print_small(str(result), "bold")


def print_difference(found: CalibrationDifference) -> None:
    """A against B, measure by measure."""
    print_small("A (DUMP) against B (--against), over the tokens of both", "italic")
    columns = {"measure": False} | dict.fromkeys(("A", "B", "A − B", "p"), True)
    rows: list[list[Cell]] = []
    for row in found.frame.iter_rows(named=True):
        delta = (_number(row["difference"]), _range(row["low"], row["high"], _number))
        rows.append([row["measure"], _number(row["a"]), _number(row["b"]), delta, _p(row["p"])])
    print_cells(columns, rows)
    print_small(
        "[ , ]: 95 % interval, over samples; one that holds 0 can be chance. p: of no difference; means only."
    )
    print_small("")
    if found.unaligned is not None:
        print_small(str(found.unaligned), "bold")
    print_small(str(found), "bold")


def _print_rows(result: CalibrationTable, rows: Sequence[Row]) -> None:
    columns = dict.fromkeys(("phase", *by_of(result), "type"), False)
    columns |= dict.fromkeys((*_COMMON, *_SPARE), True)
    shown = print_cells(
        columns, [[*_keys(result, row), *_values(row)] for row in rows], spare=_SPARE, last=_LAST
    )
    for line in _legend(result, rows, with_nll=_SPARE[0] in shown):
        print_small(line)


def _keys(result: CalibrationTable, row: Mapping[str, Any]) -> list[str]:
    key = key_of(result, row)
    return [*(_key(value) for value in list(key.values())[:-1]), key["type"] or "(all)"]


def _key(value: Any) -> str:
    """A value that tells rows apart: numbers are names there."""
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return str(value) if type(value) is int else plain_cell(value)


def _number(value: float | None) -> str:
    """Any quantity, with a true minus."""
    if value is None or math.isfinite(value):
        told = plain_cell(value)
        return f"−{told[1:]}" if told.startswith("-") else told
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"


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
    """`over 4.1 [3.2, 5.0]`, in percentage points."""
    sign = -1 if row["overconfidence"] < 0 else 1
    low, high = row.get("overconfidence_low"), row.get("overconfidence_high")
    ends = (low, high) if sign > 0 or low is None or high is None else (-high, -low)
    told = f"{'over' if sign > 0 else 'under'} {points(sign * row['overconfidence'])}"
    return told, _range(*ends, points)


def _range(low: float | None, high: float | None, told: Callable[[float], str]) -> str:
    return "" if low is None or high is None else f"[{told(low)}, {told(high)}]"


_NLL = "nll: mean −ln p(gold), nats. entropy gap: nll − entropy; above 0 the model is more often surprised than it expects (over-confident), below 0 less often."
_NLL_HIDDEN = "In a wider terminal, or with --measures: nll and entropy gap."


def _legend(result: CalibrationTable, rows: Sequence[Row], *, with_nll: bool) -> list[str]:
    """How to read the table, in plain words."""
    lines = [
        "says it is sure: the mean probability of the model's first choice, p(arg-max); is right: how often that choice is right.",
        "over (under): more (less) sure than right, by so many percentage points.",
        f"ECE, the calibration error: how far the two are apart, averaged over tokens within {result.bins} bins of confidence; 0 is perfect. By chance: the ECE that chance alone would give a perfectly calibrated model on so many tokens.",
        _NLL if with_nll else _NLL_HIDDEN,
        *_of_intervals(rows),
    ]
    if any(row["type"] for row in rows):
        lines.append("(all): every token; types may overlap.")
    lines += [f"{name}: {about}." for name, about in COMPUTED.items() if name in by_of(result)]
    several = (
        []
        if "step" in by_of(result)
        else [f"{phase}: {told}" for phase, told in steps_of(result.scan).items()]
    )
    if several:
        lines.append(f"{'; '.join(several)}. --by step tells them apart, --step last takes the last.")
    # Each token is in one row of all tokens.
    lost = sum(row["left_out"] for row in result.frame.filter(pl.col("type") == ALL).iter_rows(named=True))
    if lost:
        lines.append(f"Left out everywhere: {lost:,} token{'s' * (lost > 1)} with NaN or infinite values.")
    error = max((row.get("ece_error") or 0.0 for row in rows), default=0.0)
    if error:
        lines.append(
            f"{result.bins} bins do not fit the recorded histogram: ECE may be off by {error:.1e} at most."
        )
    return ["", *lines]


def _of_intervals(rows: Sequence[Row]) -> list[str]:
    """What brackets mean, and why some are missing."""
    without = [row for row in rows if row["overconfidence_low"] is None]
    alone = any(row["clusters"] < 2 for row in without)
    lines = (
        []
        if len(without) == len(rows)
        else ["[ , ]: 95 % interval, over samples; one that holds 0 can be chance."]
    )
    if alone:
        lines.append("One sample: no interval, and nothing known of chance.")
    elif without:
        lines.append("No intervals: too many rows.")
    return lines


def _print_worst(ranked: pl.DataFrame, n: int) -> None:
    keys = ranked.columns[: ranked.columns.index("n")]
    rows: list[list[Cell]] = []
    for row in ranked.head(n).iter_rows(named=True):
        told = [(row[name] or "(all)") if name == "type" else _key(row[name]) for name in keys]
        rows.append([*told, *_common(row), _p(row["p"]), _p(row["p_adjusted"])])
    columns = dict.fromkeys(keys, False) | dict.fromkeys((*_COMMON, "p", "p, corrected"), True)
    print_cells(columns, rows, "\nWorst calibrated subgroups", spare=_LAST)
    print_small(
        "p: how often a calibrated subgroup would show so large an ECE; corrected: for having looked at them all."
    )
    off = ranked.filter(pl.col("p_adjusted") <= _SIGNIFICANT).height
    if off:
        one = "1 is" if off == 1 else f"{off:,} are"
        print_small(
            f"Of {ranked.height:,} subgroups {one} worse than chance allows (corrected p at most {_SIGNIFICANT})."
        )
    elif ranked.height:
        print_small(f"None is worse than chance allows (no corrected p is {_SIGNIFICANT} or less).")
    else:
        print_small("There are no subgroups; --by splits into more.")
    for note in ranked.head(n)["note"].unique(maintain_order=True).to_list():
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
        return _bounded(row, before)
    told, note = f"{row['temperature']:.3f}", ""
    if row["at_edge"]:
        told = f"{'<=' if row['temperature'] < 1 else '>='} {row['temperature']:.3g}"
        note = _END
    saved = "–" if row["nll"] is None else _saved(row["nll_before"] - row["nll"])
    return [told, before, "–" if row["nll"] is None else f"{row['nll']:.4f}", saved, note]


_END = "the end of what is known"


def _bounded(row: Mapping[str, Any], before: str) -> list[Cell]:
    """Ends that may lie further out say so, and bounds that say nothing are left out."""
    from_end, to_end = row["low"] <= COOLEST * _NEAR, row["high"] >= HOTTEST / _NEAR
    if from_end and to_end:
        return ["not known", before, "–", "–", "bounds only"]
    if to_end:
        told, note = f">= {row['low']:.2f}", f"bounds only, to {HOTTEST:g}: {_END}"
    elif from_end:
        told, note = f"<= {row['high']:.2f}", f"bounds only, from {COOLEST:g}: {_END}"
    else:
        told, note = f"{row['low']:.2f} to {row['high']:.2f}", "bounds only"
    low, high = max(row["nll_low"], 0.0), max(row["nll_high"], 0.0)
    saved = f"{_saved(max(row['nll_before'] - high, 0))} to {_saved(row['nll_before'] - low)}"
    return [told, before, f"{low:.4f} to {high:.4f}", saved, note]


_NEAR = 1 + 1e-9


def _saved(nats: float) -> str:
    return f"{nats:.4f}" if nats == 0 or abs(nats) >= 5e-5 else "< 0.0001"


def _print_measures(result: CalibrationTable, measures: Sequence[Row]) -> None:
    columns = {"measure": False, "value": True, "95 % interval": True, "best": False}
    is_wide = stdout_console().width >= _WIDE_ENOUGH
    columns |= (
        {"off by at most": True} if any(one["error"] for row in measures for one in row["measures"]) else {}
    )
    for row in measures:
        ordered = {one["measure"]: one for one in row["measures"]}
        cells: list[list[Cell]] = []
        for name in [*PLAIN, *(name for name in ordered if name not in PLAIN)]:
            best, about = PLAIN.get(name, ("", ordered[name]["about"]))
            told = _measure_cells(ordered[name], best)[: len(columns)]
            cells.append([*told, *([about] if is_wide else [])])
        shown = columns | ({"what it is": False} if is_wide else {})
        print_cells(shown, cells, f"\n{' · '.join(_keys(result, row))}: every measure")
    print_small(HINT)
    if "off by at most" in columns:
        print_small(
            "off by at most: as the dump's histogram stands for its tokens; nothing where it is exact."
        )
    for name, (_, about) in {} if is_wide else PLAIN.items():
        print_small(f"{name}: {about}.")


def _measure_cells(one: Mapping[str, Any], best: str) -> list[Cell]:
    error = f"± {one['error']:.1e}" if one["error"] else ""
    return [one["measure"], _number(one["value"]), _range(one["low"], one["high"], _number), best, error]


def _print_bins(result: CalibrationTable) -> None:
    keys = [name for name in ("phase", *by_of(result)) if result.table[name].n_unique() > 1]
    table = result.table.filter(pl.col("type") == ALL)
    rows: list[list[Cell]] = []
    for row in table.iter_rows(named=True):
        lean = _lean({"overconfidence": row["confidence"] - row["accuracy"]})
        shares = (percent(row["confidence"]), percent(row["accuracy"]))
        told = [_key(row[name]) for name in keys]
        rows.append([*told, f"{row['low']:.3f} to {row['high']:.3f}", f"{row['n']:,}", *shares, lean])
    columns = dict.fromkeys((*keys, "confidence"), False) | dict.fromkeys(_COMMON[:4], True)
    print_cells(columns, rows, "\nReliability, all tokens by confidence")
