"""What every analysis returns: a frozen dataclass around a table, with a one-line verdict."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Shown:
    """How results are shown: as a table, a figure, a line of text.

    Attributes:
        frame: the numbers.
        verdict: one line in plain words, saying only what the numbers show.
    """

    frame: pl.DataFrame
    verdict: str

    def to_frame(self) -> pl.DataFrame:
        """The numbers as a polars DataFrame."""
        return self.frame

    def plot(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the result; returns the Axes and leaves matplotlib's global state alone.

        Raises:
            InputError: this result has no figure.
        """
        # Bound late: analyses never import the drawing side, they only name it.
        return import_module("logitbox.reports.figures").draw(self, ax, **options)

    def __str__(self) -> str:
        return " ".join(self.verdict.split())

    def _repr_html_(self) -> str:
        with pl.Config(tbl_rows=30, fmt_str_lengths=60, tbl_hide_dataframe_shape=True):
            table = self.frame._repr_html_()  # pyright: ignore[reportPrivateUsage] (Jupyter's own protocol)
        return f"<p><b>{html.escape(self.verdict)}</b></p>{table}"


@dataclass(frozen=True, eq=False)  # frames have no plain equality
class Result(Shown):
    """Base of all results that hold their table; see `Shown`."""

    frame: pl.DataFrame
    verdict: str
