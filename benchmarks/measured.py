"""Where figures go: a table on the screen, and a JSON file named by the device."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "triton", "numpy", "pyarrow", "transformers", "logitbox")


def device_name(device: str) -> str:
    """Of a GPU as its driver calls it; else the processor's."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def save(script: str, device: str, document: dict[str, Any], out: Path | None = None) -> Path:
    """Write `results/<device>-<script>.json` with device, versions and time; `out` is another folder."""
    name = device_name(device)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    head = {
        "script": script,
        "device": name,
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device == "cuda" else None,
        "versions": versions(),
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    folder = out or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{slug}-{script}.json"
    file.write_text(json.dumps(head | document, indent=1) + "\n", encoding="utf-8")
    print(f"written: {file.name}")
    return file


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below headings, the first column to the left, the others to the right."""
    cells = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in (list(headings), *cells):
        first, *others = row
        right = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *right]))


def _shown(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}" if abs(cell) < 10 else f"{cell:.1f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
