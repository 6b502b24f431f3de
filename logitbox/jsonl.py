"""JSON lines: one object a line, on stdout or as a file that appears whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from logitbox.dumps.files import sync_directory
from logitbox.errors import InputError
from logitbox.terminal import json_text


def print_lines(documents: Iterable[Mapping[str, Any]]) -> None:
    """One line each on stdout."""
    for document in documents:
        sys.stdout.write(json_text(document) + "\n")


def check_target(path: Path) -> None:
    """Raise InputError where no file can be written at `path`, before anything is computed."""
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; give the name of the file to write, such as {path / 'decisions.jsonl'}"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no ordinary file; leave --out away to write to stdout")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} does not exist; create the folder, or write the file elsewhere")


def write_lines(path: Path, documents: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of one line each; what was there before is replaced at the end.

    Raises:
        InputError: it cannot be written.
    """
    target = path.resolve()  # what a link points to is replaced, not the link
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(json_text(document) + "\n" for document in documents)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); write the file elsewhere") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    sync_directory(target.parent)
