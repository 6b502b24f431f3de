"""Outputs of notebooks: printed dicts, and the table that transformers draws while it trains."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from logitbox.analysis.logs.formats.console import Found
from logitbox.analysis.logs.keys import is_metric
from logitbox.analysis.logs.precision import printed
from logitbox.analysis.logs.raw import Part, Raw, Row
from logitbox.errors import InputError

_NAMES = {"training loss": "loss", "validation loss": "eval_loss", "step": "step", "epoch": "epoch"}
"""Heads of that table. The others are metrics of the evaluation, without the prefix and with capitals."""


def read_notebook(text: str, path: Path) -> Raw:
    """Rows in the outputs of a notebook, in the order of its cells.

    Raises:
        InputError: it is no notebook.
    """
    try:
        data = json.loads(text)
        outputs = list(_outputs(data))
    except (ValueError, RecursionError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no notebook ({error}); give an .ipynb file as Jupyter saves it"
        ) from error
    found = Found()
    for kind, content in outputs:
        if kind == "html":
            found.rows += _of_tables(content)
        else:
            found.add(content)
    return Raw((Part(found.rows),), "notebook outputs", found.notes())


def _outputs(data: Any) -> Iterator[tuple[str, str]]:
    """("text" or "html", content) of each output; lists of lines are joined. Streams in turn are one."""
    for cell in data.get("cells", []):
        stream = ""
        for output in cell.get("outputs", []):
            if output.get("output_type") == "stream":
                stream += _joined(output.get("text"))
                continue
            if stream:
                yield "text", stream
                stream = ""
            content: Mapping[str, Any] = output.get("data", {})
            html = _joined(content.get("text/html"))
            yield ("html", html) if "<table" in html else ("text", _joined(content.get("text/plain")))
        if stream:
            yield "text", stream


def _joined(given: Any) -> str:
    if isinstance(given, list):
        return "".join(str(line) for line in given)
    return given if isinstance(given, str) else ""


_CELLS = ("td", "th")


class _Tables(HTMLParser):
    """Collects the cells of tables, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a table, a row or a cell."""
        del attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in _CELLS and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        """Close a cell."""
        self._is_cell &= tag not in _CELLS

    def handle_data(self, data: str) -> None:
        """Text of a cell."""
        if self._is_cell and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


def _of_tables(html: str) -> Iterator[Row]:
    """Rows of the tables that have a step or an epoch, and a loss."""
    parser = _Tables()
    parser.feed(html)
    for table in parser.tables:
        heads = [head.strip().lower() for head in table[0]] if table else []
        if not heads or heads[0] not in ("step", "epoch") or not any(is_metric(head) for head in heads):
            continue
        is_eval = "validation loss" in heads
        names = [_NAMES.get(head) or ("eval_" if is_eval else "") + head.replace(" ", "_") for head in heads]
        for row in table[1:]:
            cells = {name: cell.strip() for name, cell in zip(names, row, strict=False)}
            yield {name: cell for name, cell in cells.items() if printed(cell) is not None}
