"""How tests are shared out among processes, with `pytest -n 2 --dist loadfile --no-loadscope-reorder`."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

HEAVY = "tests/realmodel/"
"""Its files share what takes longest to make: a language model, and runs of real classifiers."""


class HeavyTogether(LoadFileScheduling):
    """As if the heavy folder were one file: what its files share is made in one process only."""

    def _split_scope(self, nodeid: str) -> str:
        return HEAVY if nodeid.startswith(HEAVY) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return HeavyTogether(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: else a process would be left alone with it at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(HEAVY))
