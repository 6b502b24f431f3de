"""`overview`: what a dump holds, and what is left out. Reads journals and a few columns only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from logitbox.analysis.given import check_dump, repeated_steps
from logitbox.analysis.results import Result
from logitbox.analysis.sizes import column_sizes
from logitbox.dumps.dump import Dump
from logitbox.dumps.flags import Flag


@dataclass(frozen=True)
class Overview(Result):
    """Contents of a dump.

    Attributes:
        frame: per phase and dataset: `n_rows`, `n_supervised`, `n_steps`, `first_step`, `last_step`, `n_batches`,
            `n_unlabelled` (micro-batches without any label).
        facts: name and value of everything else, as text.
        dump: the folder.
        sessions: the sessions' manifests as JSON data.
        left_out: counts of what is not read: damaged shards and their rows, strays, dropped micro-batches
            and rows, non-finite and duplicate rows, and the sessions that never closed.
        bytes: size of all journaled shards.
        columns: what each column of `tokens` takes on disk, as `sizes.column_sizes` gives it.
    """

    facts: pl.DataFrame
    dump: str
    sessions: tuple[dict[str, Any], ...]
    left_out: dict[str, Any]
    bytes: int
    columns: pl.DataFrame

    @property
    def bytes_per_token(self) -> float | None:
        """Size of the shards of `tokens` over the tokens in them; None where there are none."""
        return float(self.columns["bytes_per_token"].sum()) if len(self.columns) else None

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return {
            "dump": self.dump,
            "verdict": self.verdict,
            "bytes": self.bytes,
            "bytes_per_token": self.bytes_per_token,
            "columns": self.columns.to_dicts(),
            "phases": self.frame.to_dicts(),
            "left_out": self.left_out,
            "sessions": list(self.sessions),
        }


def overview(dump: Dump) -> Overview:
    """Count what an opened dump holds."""
    tokens = _tokens(check_dump(dump))
    batches = dump.batches.group_by("phase", "dataset").agg(
        pl.len().alias("n_batches"), (pl.col("n_supervised") == 0).sum().alias("n_unlabelled")
    )
    frame = (
        tokens.lazy()
        .join(batches, on=["phase", "dataset"], how="full", coalesce=True)
        .sort("phase", "dataset")
        .with_columns(pl.col("n_rows", "n_supervised", "n_nonfinite", "n_duplicate", "n_steps").fill_null(0))
        .collect()
    )
    left_out = _left_out(dump, int(frame["n_nonfinite"].sum()), int(frame["n_duplicate"].sum()))
    size = sum(shard.entry.bytes for shard in dump.inventory.shards)
    rows, supervised = int(frame["n_rows"].sum()), int(frame["n_supervised"].sum())
    repeated = repeated_steps(dump)
    verdict = f"{rows:,} recorded tokens ({supervised:,} supervised) in {len(dump.sessions)} sessions, {size:,} bytes"
    columns = column_sizes(dump)
    if len(columns):
        verdict += f"; {columns['bytes_per_token'].sum():.1f} bytes a recorded token"
    if repeated:
        verdict += f"; {repeated:,} steps were recorded by more than one session and count more than once"
    sessions = tuple(session.to_json() for session in dump.sessions)
    facts = _facts(dump, left_out)
    return Overview(
        frame.drop("n_nonfinite", "n_duplicate"),
        verdict,
        facts,
        str(dump.path),
        sessions,
        left_out,
        size,
        columns,
    )


def _tokens(dump: Dump) -> pl.DataFrame:
    flags = pl.col("flags")
    return (
        dump.tokens.group_by("phase", "dataset")
        .agg(
            pl.len().alias("n_rows"),
            ((flags & int(Flag.SUPERVISED)) != 0).sum().alias("n_supervised"),
            ((flags & int(Flag.NONFINITE)) != 0).sum().alias("n_nonfinite"),
            ((flags & int(Flag.DUPLICATE)) != 0).sum().alias("n_duplicate"),
            pl.col("step").n_unique().alias("n_steps"),
            pl.col("step").min().alias("first_step"),
            pl.col("step").max().alias("last_step"),
        )
        .collect()
    )


def _left_out(dump: Dump, nonfinite: int, duplicate: int) -> dict[str, Any]:
    inventory = dump.inventory
    return {
        "damaged_shards": len(dump.skipped),
        "damaged_rows": sum(damage.rows for damage in dump.skipped),
        "stray_files": len(inventory.strays),
        "dropped_batches": inventory.dropped_calls,
        "dropped_rows": inventory.dropped_rows,
        "nonfinite_rows": nonfinite,
        "duplicate_rows": duplicate,
        "unfinished_sessions": inventory.unfinished(),
        "hidden_train_steps_from": {
            session.owner: start
            for session in dump.sessions
            if (start := dump.hidden_from(session)) is not None
        },
    }


def _facts(dump: Dump, left_out: dict[str, Any]) -> pl.DataFrame:
    spec = dump.sessions[-1].spec if dump.sessions else None
    facts: dict[str, Any] = {"format": dump.manifest.format, "created": dump.manifest.created}
    if spec is not None:
        facts |= {
            "vocabulary": f"{spec.vocab_size:,} tokens",
            "k": spec.k if spec.min_prob is None else f"{spec.k}, without those of p below {spec.min_prob:g}",
            "groups": ", ".join(f"{group.name} ({len(group.ids)} ids)" for group in spec.groups) or "none",
            "ordered": ", ".join(spec.ordered) or "none",
            "types": ", ".join(dump.types.names) or "none",
            "scope": spec.scope,
            "probes": "yes" if spec.probes else "no",
            "lse_beta": spec.lse_beta,
        }
    facts |= {f"left out: {name.replace('_', ' ')}": value for name, value in left_out.items() if value}
    return pl.DataFrame({"fact": list(facts), "value": [str(value) for value in facts.values()]})
