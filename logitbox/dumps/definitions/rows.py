"""Token rows as the definitions see them: torch tensors on a device (live) or NumPy arrays (from a dump)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from logitbox.dumps.flags import Flag
from logitbox.dumps.spec import Group, RecordSpec

Array = Any
"""A torch tensor or a NumPy array, [rows]."""

BinsOf = Callable[[Array, Group], tuple[Array, Array]]
"""(token ids, group) to (bin of each id, is the id in the group)."""


class Rows:
    """Columns of `tokens`, all of the same length, and what is often asked of them.

    Args:
        columns: name to values, floats in float64 (float32 where the device has no other); `top_1` is the best
            id, −1 where none was kept; `top_gap` is [rows, width], infinite where a list was shorter.
        spec: of the session the rows are from.
        bins_of: looks token ids up in a group; by default with NumPy.
    """

    def __init__(self, columns: Mapping[str, Array], spec: RecordSpec, bins_of: BinsOf | None = None) -> None:
        self._columns = columns
        self.spec = spec
        self._bins_of = bins_of or (lambda ids, group: group.bins(ids))
        self._found: dict[Hashable, Any] = {}

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    @property
    def xp(self) -> Any:
        """The module whose functions these columns take: `numpy` or `torch`, called in ways that suit both."""
        # Whoever made a tensor has imported torch; the analyses never do.
        return np if isinstance(self["gold"], np.ndarray) else sys.modules["torch"]

    @property
    def everywhere(self) -> Array:
        """bool: true of every row."""
        return self.xp.ones_like(self["gold"], dtype=bool)

    def inside(self, group: str, column: str = "gold") -> Array:
        """bool: the id in `column` ("gold" or "top_1") belongs to the group."""
        return self._look_up(group, column)[1]

    def bin(self, group: str) -> Array:
        """Bin of the gold id in a group; 0 where it is not in it."""
        return self._look_up(group, "gold")[0]

    def flagged(self, flag: Flag) -> Array:
        """bool: the row has the flag."""
        return (self["flags"] & int(flag)) != 0

    def of_type(self, name: str) -> Array:
        """bool: the row has the token type."""
        return (self["types"] >> self.spec.types.names.index(name)) & 1 != 0

    def _look_up(self, group: str, column: str) -> tuple[Array, Array]:
        return self.once((group, column), lambda: self._bins_of(self[column], self.spec.group(group)))

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives; made once, for all definitions that ask for the same key."""
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]
