"""Title, verdicts, the numbers everyone asks for first, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from logitbox.analysis.audit.audit import Audit
from logitbox.analysis.given import repeated_steps
from logitbox.analysis.leftout import left_out_of_loss
from logitbox.analysis.populations import ALL
from logitbox.dumps.dump import Dump
from logitbox.reports import texts
from logitbox.reports.sections.pieces import flip_verdict
from logitbox.reports.streams import MAX_STREAMS, Material, Stream


@dataclass(frozen=True)
class Tile:
    """A number with its name and a remark."""

    name: str
    value: str
    remark: str


@dataclass(frozen=True)
class Head:
    """See `head.html`."""

    title: str
    facts: tuple[str, ...]
    of: str
    tiles: tuple[Tile, ...]
    verdicts: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]


def build(material: Material, title: str | None, audited: Audit | str | None = None) -> Head:
    """The page's head; `audited` as of `report.render`."""
    whole = material.tally.cells.filter(pl.col("type") == ALL)
    dump, main = material.dump, material.main
    sessions = {session.session for session in dump.sessions}
    recorded = sum(int(whole[name].sum()) for name in ("n", "n_nonfinite", "n_duplicate"))
    facts = (
        texts.plural(recorded, "supervised token"),
        texts.plural(whole["step"].n_unique(), "step"),
        texts.plural(whole.select("phase", "dataset").n_unique(), "phase or dataset", "phases and datasets"),
        texts.plural(len(sessions), "session"),
    )
    return Head(
        title=title or default_title(dump),
        facts=facts,
        of=f"{main.label}, step {main.step:,}",
        tiles=_tiles(main),
        verdicts=(*_verdicts(material), *_audited(audited)),
        left_out=(*_left_out(dump, whole), *_not_shown(material)),
    )


def default_title(dump: Dump) -> str:
    """The folder's name; one that says nothing gets its parent's before it."""
    folder = dump.path.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name in ("dump", "logits", "run") else folder.name


def _tiles(main: Stream) -> tuple[Tile, ...]:
    accuracy = main.rows["token_acc"]
    rows = main.calibration.frame.filter(pl.col("type") == ALL).to_dicts()
    ece = rows[0]["ece"] if rows else None
    gap = rows[0]["confidence"] - rows[0]["accuracy"] if rows else 0.0
    lean = (
        f"{'over' if gap > 0 else 'under'}-confident by {texts.share(abs(gap))}"
        if rows
        else "no finite tokens"
    )
    if rows and rows[0]["ece_noise"] is not None:
        lean = f"by chance {texts.share(rows[0]['ece_noise'])}; {lean}"
    low, high = accuracy["low"], accuracy["high"]
    return (
        Tile(
            "accuracy (TFA)",
            texts.share(accuracy["value"]),
            "" if low is None else f"{texts.share(low)} – {texts.share(high)}",
        ),
        Tile(
            "nll (TFCE), nats",
            texts.number(main.value("nll")),
            f"perplexity {texts.number(main.value('exp_nll'))}",
        ),
        Tile("entropy, nats", texts.number(main.value("full_entropy")), "mean over the full vocabulary"),
        Tile("calibration error", texts.share(ece), lean),
        Tile("tokens", texts.count(main.value("n_tokens")), f"step {main.step:,}"),
    )


def _verdicts(material: Material) -> tuple[tuple[str, str], ...]:
    main = material.main
    found = [
        ("Metrics", main.verdict),
        ("Accuracy against loss", main.explanation.verdict),
        ("Where the loss is", _costliest(material)),
        ("Calibration", main.calibration.verdict),
    ]
    if any(session.spec.groups for session in material.dump.sessions):
        found.append(("Flips", flip_verdict(main)))
    found += [(f"{other.label}, step {other.step:,}", other.verdict) for other in material.streams[1:]]
    phases = {stream.phase for stream in material.streams}
    return tuple((name, _without_phase(told, phases)) for name, told in found if told)


def _audited(audited: Audit | str | None) -> list[tuple[str, str]]:
    """What the audit found wrong, and how many keys are counted in another way; nothing where all agree."""
    if audited is None or isinstance(audited, str):
        return []
    wrong = [one for one in audited.keys if one.is_conviction]
    other = sum(one.verdict == "other convention" for one in audited.keys)
    told = [
        f"{verdict}: {_some([one.label for one in wrong if one.verdict == verdict])}"
        for verdict in dict.fromkeys(one.verdict for one in wrong)
    ]
    told += ["keys that cannot all be true"] * (not wrong and bool(audited.violations))
    told += [f"{texts.plural(other, 'key')} by another convention than the name's"] * bool(other)
    return [("Logged values", "; ".join(told))] if told else []


def _without_phase(verdict: str, phases: set[str]) -> str:
    """The heading names the phase already."""
    return next((verdict.removeprefix(f"{p}: ") for p in phases if verdict.startswith(f"{p}: ")), verdict)


def _costliest(material: Material) -> str:
    """The token type that carries most of the loss, with its share of the tokens."""
    frame = material.main.explanation.frame.filter(pl.col("type").is_in(material.types))
    whole = material.main.explanation.frame.filter(pl.col("type") == ALL)
    nll = float(whole["n"].sum()) * float(whole["tfce_part"].sum())
    if frame.is_empty() or nll <= 0:
        return ""
    types = frame.group_by("type", maintain_order=True).agg(pl.col("n").sum(), pl.col("tfce").first())
    most = (
        types.with_columns(nll=pl.col("n") * pl.col("tfce")).sort("nll", descending=True).row(0, named=True)
    )
    share, cost = most["n"] / whole["n"].sum(), most["nll"] / nll
    if share == 1:
        return ""
    return f"{most['type']} tokens are {texts.percent(share)} of all tokens and carry {texts.percent(cost)} of the loss"


def _left_out(dump: Dump, whole: pl.DataFrame) -> list[str]:
    """Everything that was not read, or never recorded; nothing is passed over in silence."""
    inventory, told = dump.inventory, list[str]()
    for damage in dump.skipped:
        told.append(
            f"Damaged shard {damage.shard} ({damage.problem}): {texts.plural(damage.rows, 'row')} not read."
        )
    if inventory.strays:
        told.append(
            f"{texts.plural(len(inventory.strays), 'file')} without a journal line, left by a writer that was "
            f"stopped: not read ({_some(inventory.strays)})."
        )
    if unfinished := inventory.unfinished():
        told.append(
            f"{texts.plural(len(unfinished), 'session')} without an end, killed or still recording: {_some(unfinished)}."
        )
    if torn := inventory.torn():
        told.append(f"The journal of {_some(torn)} ends in half a line, which was ignored.")
    if inventory.dropped_calls:
        told.append(
            f"{texts.plural(inventory.dropped_calls, 'micro-batch', 'micro-batches')} "
            f"({texts.plural(inventory.dropped_rows, 'row')}) dropped while recording: the writer was behind."
        )
    if lost := int(whole["n_nonfinite"].sum()):
        told.append(f"{texts.plural(lost, 'token')} with NaN or infinite values: counted, but in no mean.")
    if repeated := int(whole["n_duplicate"].sum()):
        told.append(
            f"{texts.plural(repeated, 'token')} of rows that a sampler repeated to fill its last batch: counted, "
            "but in no mean."
        )
    told += [
        f"{texts.plural(n, 'token')} whose {group} loss is NaN or infinite: in no mean of that group's loss."
        for group, n in left_out_of_loss(whole).items()
    ]
    if repeated := repeated_steps(dump):
        told.append(
            f"{texts.plural(repeated, 'step')} recorded by more than one session (a run started "
            "again in the same folder?): these count more than once."
        )
    if hidden := _hidden(dump):
        told.append(
            f"{texts.plural(hidden, 'training row')} of earlier sessions, replaced when training was resumed."
        )
    return told


def _hidden(dump: Dump) -> int:
    """Rows of `tokens` that a later session's `resume_from` hides."""
    rows = 0
    for session in dump.sessions:
        start = dump.hidden_from(session)
        paths = [shard.path for shard in dump.shards("tokens") if shard.session is session]
        if start is not None and paths:
            replaced = (pl.col("phase") == "train") & (pl.col("step") >= start)
            rows += int(
                pl.scan_parquet(paths, glob=False, hive_partitioning=False)
                .filter(replaced)
                .select(pl.len())
                .collect()
                .item()
            )
    return rows


def _not_shown(material: Material) -> list[str]:
    told: list[str] = []
    if material.others:
        told.append(
            f"This page shows {MAX_STREAMS} phases and datasets; not shown: {_some(material.others)}."
        )
    if material.n_types > len(material.types):
        told.append(
            f"This page shows the {len(material.types)} token types with most tokens, of {material.n_types}."
        )
    return told


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
