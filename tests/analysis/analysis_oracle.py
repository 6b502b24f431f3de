"""Everything the analyses say, computed once more from the full logits, token by token, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from logitbox.dumps.recorder import Recorder

V, COORD = 60, range(20, 50)
SIGMA, TRUNCATE = 2.0, 5
OPTIONS = {
    "sigma": SIGMA,
    "truncate": TRUNCATE,
    "w1_weight": 0.5,
    "gate_weight": 0.25,
}
BEST = (2, 5, 10)
AGENT = ("reasoning", "tool_call")


@dataclass
class Log:
    """What was recorded: one dict a token, with the logits themselves."""

    tokens: list[dict[str, Any]] = field(default_factory=list)

    def record(
        self, rec: Recorder, rng: np.random.Generator, *, rows: int = 3, width: int = 14, **where: Any
    ) -> None:
        """Record a ragged random micro-batch, and remember it."""
        logits = torch.from_numpy(rng.normal(0, 3, (rows, width, V)).astype(np.float32)).bfloat16().float()
        labels = torch.from_numpy(rng.integers(0, V, (rows, width)))
        easy = torch.from_numpy(rng.random((rows, width)) < 0.6)
        for b in range(rows):
            labels[b, : rng.integers(1, 4)] = -100
            labels[b, width - int(rng.integers(0, 5)) :] = -100
            for t in range(1, width):
                if easy[b, t] and labels[b, t] >= 0:
                    logits[b, t - 1, labels[b, t]] += rng.integers(2, 12)
        logits = logits.bfloat16().float()  # coarse on purpose: ties
        self._spoil(logits, labels, rng)
        types = self._types(labels, rng)
        sample = where.pop("sample", None) or [int(i) for i in rng.integers(0, 6, rows)]
        rec.record(
            logits, labels, sample=sample, types={n: torch.from_numpy(m) for n, m in types.items()}, **where
        )
        for b in range(rows):
            for t in range(1, width):
                if labels[b, t] != -100:
                    self.tokens.append(
                        {
                            "phase": "train", "dataset": "", "step": 0, "epoch": None, "micro": 0,
                            **where,
                            "rank": rec.session.rank,
                            "sample": sample[b],
                            "gold": int(labels[b, t]),
                            "x": logits[b, t - 1].double().numpy(),
                            **{f"is_{name}": bool(mask[b, t]) for name, mask in types.items()},
                        }
                    )  # fmt: skip

    @staticmethod
    def _spoil(logits: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> None:
        """Masked vocabulary everywhere, some NaN rows, some gold tokens of probability 0."""
        logits[..., 3] = -torch.inf
        labels[labels == 3] = 4
        for b, t in zip(*np.nonzero(rng.random(labels.shape) < 0.04), strict=True):
            logits[b, t, int(rng.integers(0, V))] = torch.nan
        for b, t in zip(*np.nonzero(rng.random(labels.shape) < 0.03), strict=True):
            if t > 0 and labels[b, t] >= 0:
                logits[b, t - 1, labels[b, t]] = -torch.inf

    @staticmethod
    def _types(labels: torch.Tensor, rng: np.random.Generator) -> dict[str, np.ndarray]:
        gold = labels.numpy()
        coord = (gold >= COORD.start) & (gold < COORD.stop)
        desc = ~coord & (rng.random(gold.shape) < 0.5)
        return {"coord": coord, "desc": desc, "format": ~coord & ~desc}


def agent_prefix(phase: str, phases: set[str]) -> str:
    """Seed 001 says train and val; an evaluation is its val, unless there is a phase of that name."""
    return "val_" if phase == "eval" and "val" not in phases else f"{phase}_"


def scored(token: dict[str, Any], options: dict[str, Any] = OPTIONS) -> dict[str, Any]:
    """Per-token values; `finite` False where the analyses must leave it out."""
    x, gold = token["x"], token["gold"]
    out = {"is_special": False, "is_duplicate": False, "is_decision": False, **token}
    out["good"] = bool(not np.isnan(x).any() and np.isfinite(x[gold]))
    out["finite"] = out["good"] and not out["is_duplicate"]
    if not out["finite"]:
        return out
    p = softmax(x)
    order = np.lexsort((np.arange(V), -x))
    out |= {
        "p": p,
        "nll": -np.log(p[gold]),
        "entropy": -sum(q * np.log(q) for q in p if q > 0),
        "top": int(order[0]),
        "rank_of_gold": int(np.flatnonzero(order == gold)[0]),
        "confidence": p.max(),
        "mass": p[COORD.start : COORD.stop].sum(),
    }
    out["correct"] = out["top"] == gold
    out["coord_loss_known"] = gold in COORD
    if gold in COORD:
        out |= _ordered(x, gold, options)
    return out


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def _ordered(x: np.ndarray, gold: int, options: dict[str, Any]) -> dict[str, float]:
    inner, temperature = x[COORD.start : COORD.stop], options.get("temperature", 1.0)
    p = softmax(inner / temperature)
    bins, center = np.arange(len(p)), gold - COORD.start
    near = abs(bins - center) <= options["truncate"]
    q = np.where(near, np.exp(-0.5 * ((bins - center) / options["sigma"]) ** 2), 0.0)
    q /= q.sum()
    at = softmax(x / options.get("gate_temperature", temperature))
    gate_mass = at[COORD.start : COORD.stop].sum()
    part = {
        "soft_ce": sum(q[i] * (-np.log(p[i]) if p[i] > 0 else np.inf) for i in bins if q[i] > 0),
        "w1": sum(abs(p[: i + 1].sum() - q[: i + 1].sum()) for i in bins),
        "gate": -np.log(gate_mass),
    }
    if options.get("normalize_w1"):
        part["w1"] /= len(bins)
    weights = {name: options.get(f"{name}_weight", 1.0) for name in part}
    weighted = [weights[name] * value for name, value in part.items() if weights[name]]
    return part | {
        "coord_loss_known": bool(np.isfinite(weighted).all()),
        "loss": sum(weighted),
        "gate_mass": gate_mass,
        "bin_error": abs((p * bins).sum() - center),
        "top_bin_error": abs(int(p.argmax()) - center),
    }


def basic(tokens: list[dict[str, Any]]) -> dict[str, tuple[float | None, int]]:
    """Key to (value, n) of what every population has; scikit-learn where it has the thing."""
    good = [t for t in tokens if t["finite"]]
    n, repeated = len(good), sum(t["is_duplicate"] for t in tokens)
    counts = {
        "n_tokens": (float(n), n),
        "n_nonfinite": (float(len(tokens) - n - repeated), n),
        "n_duplicate": (float(repeated), n),
    }
    if not n:
        keys = ("token_acc", "token_acc_top5", "nll", "exp_nll", "full_entropy", "confidence")
        return dict.fromkeys(keys, (None, 0)) | counts
    gold = np.array([t["gold"] for t in good])
    p = np.stack([t["p"] for t in good])
    # Ties by lowest id: a rank as score, which has none.
    ranked = np.stack([-np.argsort(np.lexsort((np.arange(V), -t["x"]))) for t in good])
    values = {
        "token_acc": accuracy_score(gold, [t["top"] for t in good]),
        "token_acc_top5": top_k_accuracy_score(gold, ranked, k=5, labels=range(V)),
        "nll": log_loss(gold, p, labels=range(V)),
        "full_entropy": np.mean([t["entropy"] for t in good]),
        "confidence": np.mean([t["confidence"] for t in good]),
    }
    values["exp_nll"] = np.exp(values["nll"])
    return {key: (float(value), n) for key, value in values.items()} | counts


def _mean(tokens: list[dict[str, Any]], of: Any) -> tuple[float | None, int]:
    values = [of(t) for t in tokens if t["finite"]]
    return (float(np.mean(values)), len(values)) if values else (None, 0)


def everything(
    tokens: list[dict[str, Any]], types: Sequence[str] = ("coord", "desc", "format")
) -> dict[str, tuple[float | None, int]]:
    """Key to (value, n) of seed 000's family and our own, without prefix. `types` include the group coord."""
    kinds = {name: [t for t in tokens if t[f"is_{name}"]] for name in types if name != "coord"}
    kinds |= {
        "coord": [t for t in tokens if t["gold"] in COORD],
        "text": [t for t in tokens if t["gold"] not in COORD],
    }
    found = basic(tokens)
    found["text_token_acc"] = _mean(kinds["text"], lambda t: t["correct"])
    for name in types:
        mine = kinds[name]
        count = sum(t["finite"] for t in mine)
        n = found["n_tokens"][1]
        found[f"{name}_token_frac"] = (count / n if n else None, n)
        found[f"{name}_token_acc"] = _mean(mine, lambda t: t["correct"])
        found[f"{name}_token_acc_top5"] = _mean(mine, lambda t: t["rank_of_gold"] < 5)
        found[f"{name}_nll"] = value, n = _mean(mine, lambda t: t["nll"])
        found[f"{name}_exp_nll"] = (None if value is None else float(np.exp(value)), n)
        found[f"{name}_full_entropy"] = _mean(mine, lambda t: t["entropy"])
    return found | _monitors(kinds) | _coord_loss(kinds)


def _monitors(kinds: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[float | None, int]]:
    found = {}
    for name, mine in kinds.items():
        if name != "coord":  # types may overlap with the group: gold in it is no intrusion
            found[f"coord_monitor/flip_{name}_to_coord"] = _mean(
                mine, lambda t: t["top"] in COORD and t["gold"] not in COORD
            )
        found[f"coord_monitor/coord_vocab_mass_at_gt_{name}"] = _mean(mine, lambda t: t["mass"])
    found["coord_monitor/flip_coord_to_noncoord"] = _mean(kinds["coord"], lambda t: t["top"] not in COORD)
    return found


def _coord_loss(kinds: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[float | None, int]]:
    good = [t for t in kinds["coord"] if t["finite"]]
    known = [t for t in good if t["coord_loss_known"]]
    found = {}
    for part in ("loss", "soft_ce", "w1", "gate"):
        found[f"coord_softce_w1/{part}"] = _mean(known, lambda t, part=part: t[part])
    found["coord_softce_w1/coord_vocab_mass"] = _mean(known, lambda t: t["gate_mass"])
    found["coord_softce_w1/coord_tokens"] = (float(len(good)), len(good))
    found["coord_softce_w1/n_nonfinite"] = (float(len(good) - len(known)), len(good))
    found["coord_bin_error"] = _mean(known, lambda t: t["bin_error"])
    found["coord_top_bin_error"] = _mean(known, lambda t: t["top_bin_error"])
    base = found["coord_softce_w1/base_loss"] = _mean(kinds["text"], lambda t: t["nll"])
    parts = [base, found["coord_softce_w1/loss"]]
    terms = [value for value, _ in parts if value is not None]
    found["coord_softce_w1/composite_loss"] = (sum(terms) if terms else None, sum(n for _, n in parts))
    return found


Loose = tuple[float | None, int, float]
"""Value, tokens, and by how much what is made of float16 distances may be off."""


def agent(tokens: list[dict[str, Any]], types: Sequence[str] = (), entropy_k: int = 10) -> dict[str, Loose]:
    """Seed 001's keys, without prefix: special tokens left out, binary entropy in bits, perplexity capped."""
    plain = [t for t in tokens if t["finite"] and not t["is_special"]]
    found: dict[str, Loose] = {}
    for name in ("", *types):
        mine = [best_of(t, entropy_k) for t in plain if not name or t[f"is_{name}"]]
        before, n = f"{name}_" if name else "", len(mine)
        for key in ("entropy", *(f"top{count}_prob" for count in (1, *BEST)), f"top{entropy_k}_entropy"):
            value = float(np.mean([t[key][0] for t in mine])) if n else None
            found[before + key] = (value, n, float(np.mean([t[key][1] for t in mine])) if n else 0.0)
        nll = [t["nll"] for t in mine]
        found[f"{before}perplexity"] = (min(float(np.exp(np.mean(nll))), 1e6) if n else None, n, 0.0)
    return found


def best_of(token: dict[str, Any], entropy_k: int) -> dict[str, Any]:
    """Key to (value, what the rounding of distances to float16 can do to it) of one token."""
    p = np.sort(token["p"])[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.log(p[0]) - np.log(p)
        half = np.nan_to_num(np.spacing(gap.astype(np.float16)).astype(np.float64)) / 2
    off = p * np.expm1(half) + 1e-9
    found: dict[str, Any] = {"nll": token["nll"], "top1_prob": (p[0], 0.0)}
    for count in BEST:
        found[f"top{count}_prob"] = (p[:count].sum(), off[1:count].sum())
    found["entropy"] = (_bits(np.array([p[0], 1 - p[0]])), 0.0)
    outcomes = np.append(p[:entropy_k], p[entropy_k:].sum())
    moved = np.append(off[:entropy_k], off[1:entropy_k].sum())
    moved[0] = 0.0
    slack = sum(
        max(abs(_bits(np.array([q])) - _bits(np.array([q + sign * d]))) for sign in (-1, 1))
        for q, d in zip(outcomes, moved, strict=True)
    )
    return found | {f"top{entropy_k}_entropy": (_bits(outcomes), slack)}


def _bits(p: np.ndarray) -> float:
    return -float(sum(q * np.log2(q) for q in p if q > 0))


def decisions(
    tokens: list[dict[str, Any]], answers: dict[str, Sequence[int]]
) -> dict[str, tuple[float | None, int]]:
    """Seed 003's keys, without prefix, over the tokens marked `is_decision`."""
    slots = []
    for t in tokens:
        if t["is_decision"] and t["finite"]:
            mass = {name: sum(float(t["p"][i]) for i in ids) for name, ids in answers.items()}
            best = max(mass.values())
            chosen = next(name for name, value in mass.items() if value == best)
            slots.append(t | {"mass_of": mass, "best": best, "is_right": t["gold"] in answers[chosen]})
    every = {i for ids in answers.values() for i in ids}
    found = {f"avg_p_{name}": _mean(slots, lambda t, name=name: t["mass_of"][name]) for name in answers}
    found["decision_prob_mass"] = _mean(slots, lambda t: sum(t["mass_of"].values()))
    found["decision_confidence"] = _mean(slots, lambda t: t["best"])
    found["decision_accuracy"] = _mean(slots, lambda t: t["is_right"])
    found["decision_elsewhere"] = _mean(slots, lambda t: t["top"] not in every)
    found["decision_slots"] = (float(len(slots)), len(slots))
    return found
