"""Rows that wait for their shard, kept in few tables however small the micro-batches are."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

_FANOUT = 64
"""Tables of one level before they become one of the next: a row is copied once a level."""


@dataclass
class PendingRows:
    """The pending rows of one table, in the order they came.

    An Arrow table of one row takes some 50 kB, and so does each of a thousand; joined, a row takes what it holds.
    """

    rows: int = 0
    _levels: list[list[pa.Table]] = field(default_factory=list[list[pa.Table]])

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        self.rows += table.num_rows
        for level in self._levels:
            level.append(table)
            if len(level) < _FANOUT:
                return
            table = _joined(level)
            level.clear()
        self._levels.append([table])

    def joined(self) -> pa.Table:
        """All rows as one table; there must be some."""
        return _joined([table for level in reversed(self._levels) for table in level])

    def clear(self) -> None:
        """Forget them: they are in a shard."""
        self.rows = 0
        self._levels.clear()


def _joined(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default").combine_chunks()
