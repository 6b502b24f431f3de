"""Small example dumps that ship with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from logitbox.dumps.dump import Dump, open_dump
from logitbox.errors import InputError

EXAMPLES = {
    "digits": "a small transformer that names and locates handwritten digits (train and eval phases)",
    "smollm2": "SmolLM2-135M-Instruct over licence texts and Python source (eval phase)",
}


def load_example(name: str) -> Dump:
    """Open an example dump by name. Raises InputError for an unknown one."""
    if name not in EXAMPLES:
        raise InputError(f"no example is called {name!r}; there are {', '.join(sorted(EXAMPLES))}")
    return open_dump(Path(str(files("logitbox.data"))) / name)
