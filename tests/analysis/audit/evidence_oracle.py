"""An audit's evidence in plain loops over tokens: who belongs where comes from what was recorded, values from the dump."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from evidence_run import COORD, GIVEN, TEXTS, WITHOUT, T, Target

from logitbox.dumps.spec import BETAS

WHOLE = {".not_pad", ".everything", ".with_boundary", ".with_image"}
PROBED = {".unshifted", ".next", ".first_label"}


def populations(one: Target, scope: str, probes: bool) -> dict[str, bool | None]:
    """Population to whether a token belongs to it; None where the recording does not tell."""
    counted = one.supervised and not one.broken
    plain = not one.flagged("eos", "special", "pad")
    base = {
        "": True,
        **{name: one.is_type(name) for name in ("coord", *GIVEN)},
        "text": not one.is_type("coord"),
    }
    base |= {".plain": plain, **{f"{name}.plain": plain and one.is_type(name) for name in GIVEN}}
    found: dict[str, bool | None] = {".typed": counted and not one.repeated}
    for name, inside in base.items():
        found[name] = counted and inside and not one.repeated
        found[name + ".duplicates"] = counted and inside
        for suffix, flags in WITHOUT.items():
            found[name + suffix] = found[name] and not one.flagged(*flags)
    for name in ("coord", *GIVEN):
        for suffix, by in ((".previous", -1), (".following", 1)):
            is_known = one.told(by, scope, probes)
            is_of = one.is_type(name, by) if is_known else None
            for population, candidate in ((name, True), (f"{name}.plain", plain)):
                if population in base:
                    found[population + suffix] = is_of if found[""] and candidate else False
    usable = not one.broken and not one.repeated
    found |= {
        ".not_pad": one.exists and not one.flagged("pad"),
        ".everything": one.exists,
        ".with_boundary": one.supervised or one.flagged("boundary"),
        ".with_image": one.supervised or one.flagged("image"),
        ".unshifted": one.label(-1) != -100,
        ".next": one.label(1) != -100,
        ".first_label": one.place == 1 and one.label(-1) != -100,
    }
    for name in WHOLE | PROBED:
        found[name] = found[name] and usable
    return found


def values(one: Target) -> dict[str, float | None]:
    """Values of a token, from its row of the dump."""
    row = one.row
    known = row["gold"] >= 0
    rank = row["n_gt"] + row["n_eq_before"] if known else None
    nll, p = row["nll"], math.exp(-row["top_nll"])

    def best(probe: str) -> float | None:
        return None if row.get(probe) is None else float(row[probe] == row["top_nll"])

    return {
        "nll": nll,
        "entropy": row["entropy"],
        "correct": None if rank is None else float(rank == 0),
        "correct_top5": None if rank is None else float(rank < 5),
        "confidence": p,
        "mass_coord": math.exp(row["logmass_coord"]),
        "top10_prob": row["top10_prob"],
        "hit_tied": float(row["n_gt"] == 0) if known else None,
        "hit_tied_top5": float(row["n_gt"] < 5) if known else None,
        "uniform_nll": row["lse"] - row["mean_logit"],
        "lse2": row["lse"] ** 2,
        "weight": row["weight"],
        "weighted_nll": row["weight"] * nll if known else None,
        "nll_unshifted": row.get("nll_unshifted"),
        "correct_unshifted": best("nll_unshifted"),
        "nll_next": row.get("nll_next"),
        "correct_next": best("nll_next"),
        "binary_entropy_nats": -(p * math.log(p) + (1 - p) * math.log1p(-p)),
        "bytes": float(len(TEXTS[row["gold"]])) if known else None,
        "is_coord": float(row["gold"] in COORD) if known else None,
        "is_reasoning": float(one.is_type("reasoning")),
        **{
            f"nll_beta_{beta:g}": row["lse_beta"][i] - beta * (row["lse"] - nll) if known else None
            for i, beta in enumerate(BETAS)
        },
    }


def expected(targets: list[Target], scope: str, probes: bool) -> dict[tuple[Any, ...], dict[str, Any]]:
    """(micro-batch, population) to its row; None where it is not known."""
    groups: dict[tuple[Any, ...], list[Target]] = defaultdict(list)
    unclear = set()
    for one in targets:
        for name, inside in populations(one, scope, probes).items():
            if inside is None:
                unclear.add((*one.micro, name))
            elif inside:
                groups[*one.micro, name].append(one)
    found = {key: _sums(members) for key, members in groups.items()}
    return found | {key: dict.fromkeys([*found[*key[:-1], ""]]) for key in unclear}


def _sums(members: list[Target]) -> dict[str, Any]:
    """n, samples and, per value, both columns."""
    samples: dict[tuple[int, int], list[dict[str, float | None]]] = defaultdict(list)
    for one in members:
        samples[one.line, one.doc[min(one.place, T - 1)]].append(values(one))
    row: dict[str, Any] = {"n": len(members), "samples": len(samples)}
    for name in values(members[0]):
        parts = [[value[name] for value in sample] for sample in samples.values()]
        is_known = all(x is not None for part in parts for x in part)
        row[name] = math.fsum(x for part in parts for x in part) if is_known else None
        row[f"{name}@samples"] = (
            math.fsum(math.fsum(part) / len(part) for part in parts) if is_known else None
        )
    right = [[value["correct"] for value in sample] for sample in samples.values()]
    is_known = all(x is not None for part in right for x in part)
    row["sequence_correct@samples"] = sum(all(part) for part in right) if is_known else None
    nll = [[value["nll"] for value in sample] for sample in samples.values()]
    is_known = all(x is not None for part in nll for x in part)
    risen = [math.exp(math.fsum(part) / len(part)) for part in nll] if is_known else []
    row["sample_perplexity@samples"] = math.fsum(risen) if is_known else None
    row["sample_perplexity"] = (
        math.fsum(len(part) * x for part, x in zip(nll, risen, strict=True)) if is_known else None
    )
    right = [[value["correct"] for value in sample] for sample in samples.values()]
    is_known = all(x is not None for part in right for x in part)
    row["sequence_correct"] = sum(len(part) * all(part) for part in right) if is_known else None
    return row
