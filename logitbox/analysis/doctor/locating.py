"""Where in a TOML file a key stands: `tomllib` tells lines of syntax errors only, a bad rule needs one too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from logitbox.errors import InputError

Place = Sequence[str | int]
"""Names and positions on the way to a value: ["rule", 3, "condition", 0, "above"]."""

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")


@dataclass(frozen=True)
class Source:
    """The text of a profile, for telling where something is wrong."""

    name: str
    text: str

    def error(self, place: Place, message: str) -> InputError:
        """An error that names the line and the key."""
        path = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return InputError(f"{self.name}, line {self.line(place)}: {path} {message}")

    def line(self, place: Place) -> int:
        """The line that a value stands on, counted from 1; of something missing, that of its table."""
        lines = self.text.splitlines()
        start, end, depth = _table(lines, place)
        at = start
        for part in place[depth:]:
            found = _nth_inline(lines, at, end, part) if isinstance(part, int) else _key(lines, at, end, part)
            if found is None:
                break
            at = found
        return at + 1


def _table(lines: Sequence[str], place: Place) -> tuple[int, int, int]:
    """First and last line of the innermost table with a header of its own, and how much of the place it takes."""
    best = (0, _next_header(lines, 0), 0)
    counts: dict[str, int] = {}
    for number, line in enumerate(lines):
        header = _HEADER.match(line)
        if header is None:
            continue
        name = re.sub(r"""\s*\.\s*|["']""", lambda found: "." if "." in found[0] else "", header[2])
        if header[1] == "[[":
            counts[name] = counts.get(name, -1) + 1
            # Tables inside a table of an array are counted anew in each.
            for inner in [other for other in counts if other.startswith(f"{name}.")]:
                del counts[inner]
        here = _expanded(name, counts)
        if len(here) > best[2] and list(place[: len(here)]) == here:
            best = (number, _next_header(lines, number + 1), len(here))
    return best


def _expanded(name: str, counts: dict[str, int]) -> list[str | int]:
    """The place of a header: names, with the position after each array of tables."""
    found: list[str | int] = []
    so_far = ""
    for part in name.split("."):
        so_far = f"{so_far}.{part}".lstrip(".")
        found.append(part)
        if so_far in counts:
            found.append(counts[so_far])
    return found


def _next_header(lines: Sequence[str], start: int) -> int:
    return next((i for i in range(start, len(lines)) if _HEADER.match(lines[i])), len(lines))


def _key(lines: Sequence[str], start: int, end: int, name: str) -> int | None:
    pattern = re.compile(rf"""(?:^|[\s{{,])["']?{re.escape(name)}["']?\s*=""")
    return next((i for i in range(start, end) if pattern.search(lines[i])), None)


def _nth_inline(lines: Sequence[str], start: int, end: int, position: int) -> int | None:
    """The line of an inline table in an array, where each has a line of its own or all are on one."""
    seen = -1
    for i in range(start, end):
        seen += lines[i].count("{")
        if seen >= position:
            return i
    return None
