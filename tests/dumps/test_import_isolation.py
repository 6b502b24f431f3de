"""Recording needs torch, numpy and pyarrow only; reading needs no torch; rooms import one way."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import logitbox

PACKAGE = Path(logitbox.__file__).parent

HOOK = textwrap.dedent("""
    import sys

    class Hiding:
        '''A finder that does not find some packages, as if they were not installed.'''

        def __init__(self, finder, hidden):
            self.finder, self.hidden = finder, hidden

        def find_spec(self, name, path=None, target=None):
            return None if self.hidden(name.partition(".")[0]) else self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    def hide(hidden):
        sys.meta_path[:] = [Hiding(finder, hidden) for finder in sys.meta_path]
""")

RECORDING = HOOK + textwrap.dedent("""
    import site, os
    from importlib.metadata import packages_distributions, requires, distribution
    import re

    def plain(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    def with_requirements(names):
        seen, todo = set(), list(names)
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for line in requires(name) or ():
                if "extra ==" not in line:
                    need = plain(re.match(r"[A-Za-z0-9_.-]+", line)[0])
                    try:
                        distribution(need)
                    except Exception:
                        continue
                    todo.append(need)
        return seen

    kept = with_requirements(["torch", "numpy", "pyarrow"])
    third_party = {m for m, owners in packages_distributions().items()
                   if not any(plain(o) in kept for o in owners)} - {"logitbox", *sys.stdlib_module_names}
    hide(third_party.__contains__)
""")

READING = HOOK + "hide({'torch', 'transformers'}.__contains__)\n"


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


RECORD = RECORDING + textwrap.dedent("""
    import logitbox.dumps.recorder
    import torch
    with logitbox.dumps.recorder.Recorder(sys.argv[1], 9, groups={"g": range(3)}, ordered={"g": {}}, probes=True) as rec:
        rec.record(torch.randn(2, 4, 9), torch.zeros(2, 4).long(), phase="eval")
        rec.samples({"sample": [1]})
        rec.scalars(1, {"loss": 1.0})
        rec.metrics()
    assert not {"polars", "pandas", "sklearn", "matplotlib"} & set(sys.modules), "something heavy came along"
""")

OPEN = READING + textwrap.dedent("""
    import logitbox, logitbox.dumps.dump
    dump = logitbox.open(sys.argv[1])
    assert dump.tokens.collect().height == 8, dump
    assert dump.verify().ok
    assert "torch" not in sys.modules
""")


def test_recording_and_reading_in_their_own_containers(tmp_path: Path) -> None:
    recorded = run(RECORD, tmp_path / "dump")
    assert recorded.returncode == 0, recorded.stderr
    opened = run(OPEN, tmp_path / "dump")
    assert opened.returncode == 0, opened.stderr


@pytest.mark.parametrize(
    ("hook", "module"),
    [
        (RECORDING, "polars"), (RECORDING, "pandas"), (RECORDING, "scipy.stats"), (RECORDING, "matplotlib"),
        (READING, "torch"), (READING, "logitbox.dumps.recorder"),
    ],
)  # fmt: skip
def test_the_hooks_really_block(hook: str, module: str) -> None:
    blocked = run(f"{hook}\nimport {module}")
    assert blocked.returncode == 1
    assert "No module named" in blocked.stderr


def modules(room: str) -> list[str]:
    files = sorted((PACKAGE / room).rglob("*.py"))
    names = (file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files)
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names]


@pytest.mark.parametrize("room", ["analysis", "reports"])
def test_no_module_of_the_analysis_side_needs_torch(room: str) -> None:
    """Each by itself would cost a second; one process imports all and names those that fail."""
    code = READING + textwrap.dedent("""
        import importlib
        failed = []
        for name in sys.argv[1:]:
            try:
                importlib.import_module(name)
            except ImportError as error:
                failed.append(f"{name}: {error}")
        if failed or "torch" in sys.modules:
            sys.exit("\\n".join(failed) or "torch was imported")
    """)
    done = run(code, *modules(room))
    assert done.returncode == 0, done.stderr


def imported(tree: ast.AST) -> set[str]:
    """Modules that are imported when the module is, type checking aside."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found |= imported(node)
    return found


def offences(source: str, forbidden: tuple[str, ...]) -> set[str]:
    names = imported(ast.parse(source))
    return {name for name in names for room in forbidden if name == room or name.startswith(f"{room}.")}


TORCHLESS = (
    "arrow",
    "checks",
    "detailed",
    "dump",
    "files",
    "flags",
    "inventory",
    "journal",
    "manifest",
    "schema",
    "spec",
    "text",
)
RULES = {
    "dumps": (
        "logitbox.analysis",
        "logitbox.reports",
        "logitbox.cli",
        "logitbox.commands",
        "logitbox.demo",
        "matplotlib",
        "sklearn",
    ),
    "analysis": ("logitbox.reports", "logitbox.cli", "logitbox.commands", "torch", "matplotlib", "jinja2"),
    "reports": ("logitbox.cli", "logitbox.commands", "logitbox.dumps.recorder", "torch"),
}


@pytest.mark.parametrize("room", RULES)
def test_rooms_import_one_way(room: str) -> None:
    for file in sorted((PACKAGE / room).rglob("*.py")):
        assert not offences(file.read_text(encoding="utf-8"), RULES[room]), file


def test_the_reading_side_of_dumps_names_no_torch() -> None:
    files = [PACKAGE / "dumps" / f"{name}.py" for name in TORCHLESS]
    definitions = sorted((PACKAGE / "dumps" / "definitions").glob("*.py"))
    assert len(definitions) > 5
    for file in (*files, *definitions):
        assert not offences(file.read_text(encoding="utf-8"), ("torch",)), file


def test_the_rule_can_fail() -> None:
    source = textwrap.dedent("""
        import numpy
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import torch.nn
        try:
            from logitbox import reports
        except ImportError:
            pass
        def late():
            import matplotlib
        class Inside:
            import torch
    """)
    assert offences(source, ("logitbox.reports", "torch", "matplotlib")) == {"logitbox.reports", "torch"}
