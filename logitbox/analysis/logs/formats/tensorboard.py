"""TensorBoard event files, of which the optional package `tensorboard` knows the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from logitbox.analysis.logs.raw import Part, Raw, Row, plural
from logitbox.errors import InputError

_MARK = "tfevents"
_MOST_FILES = 1000


def is_event_file(path: Path) -> bool:
    """Whether a file is named as TensorBoard names its files."""
    return _MARK in path.name


def event_files(folder: Path) -> list[Path]:
    """Event files in a folder and below it, in the order of their names."""
    return sorted(path for path in folder.rglob(f"*{_MARK}*") if path.is_file())


def read_events(path: Path) -> Raw:
    """The scalars of an event file, or of all in a folder. Files of one folder are one run, resumed if they are several.

    Raises:
        InputError: the package is missing, or a file cannot be read.
    """
    loader = _loader()
    files = event_files(path) if path.is_dir() else [path]
    if len(files) > _MOST_FILES:
        raise InputError(
            f"{path} holds {len(files):,} event files; give the folder of one run (at most {_MOST_FILES:,})"
        )
    n_others: Counter[str] = Counter()
    folders: dict[Path, list[Row]] = {}
    for file in files:
        try:
            folders.setdefault(file.parent, []).extend(_rows(loader(str(file)), n_others))
        except Exception as error:  # whatever a damaged file makes the parser raise
            raise InputError(f"{file} is no event file ({type(error).__name__}: {error})") from error
    parts = tuple(
        Part(rows, "" if folder == path else folder.name) for folder, rows in folders.items() if rows
    )
    notes = (
        [f"{plural(n_others.total(), 'summary', 'summaries')} without a number left out"] if n_others else []
    )
    return Raw(parts, "TensorBoard event file" + ("s" if len(files) > 1 else ""), tuple(notes))


def _loader() -> Any:
    try:
        from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            "TensorBoard event files are read with the package tensorboard; pip install 'logitbox[tensorboard]'"
        ) from error
    return LegacyEventFileLoader


def _rows(loader: Any, n_others: Counter[str]) -> Iterator[Row]:
    """Rows of `key` and `value`; a summary of one event each."""
    for event in loader.Load():
        for value in event.summary.value:
            number = _number(value)
            if number is None:
                n_others[value.tag] += 1
            else:
                yield {"step": int(event.step), "key": value.tag, "value": number}


def _number(value: Any) -> Any:
    """A simple value, or a tensor of one number; None for histograms, images and texts."""
    if value.HasField("simple_value"):
        return np.float32(value.simple_value)
    if not value.HasField("tensor"):
        return None
    from tensorboard.util.tensor_util import make_ndarray  # noqa: PLC0415 (an optional package)

    array = make_ndarray(value.tensor)
    if array.size != 1 or array.dtype.kind not in "fiu":
        return None
    number = array.reshape(())[()]
    return number if array.dtype.kind == "f" else float(number)
