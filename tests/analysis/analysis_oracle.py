"""Everything the analyses say, computed once more from the full logits, token by token, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from logitbox.dumps.recorder import Recorder

V, COORD = 60, range(20, 50)
SIGMA, TRUNCATE, WEIGHTS = 2.0, 5, {"soft_ce": 1.0, "w1": 0.5, "gate": 0.25}
OPTIONS = {
    "sigma": SIGMA,
    "truncate": TRUNCATE,
    "w1_weight": 0.5,
    "gate_weight": 0.25,
}


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


def scored(token: dict[str, Any]) -> dict[str, Any]:
    """Per-token values; `finite` False where the analyses must leave it out."""
    x, gold = token["x"], token["gold"]
    out = dict(token)
    out["finite"] = bool(not np.isnan(x).any() and np.isfinite(x[gold]))
    if not out["finite"]:
        return out
    m = x.max()
    p = np.exp(x - m) / np.exp(x - m).sum()
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
    if gold in COORD:
        out |= _ordered(x, gold, out["mass"])
    return out


def _ordered(x: np.ndarray, gold: int, mass: float) -> dict[str, float]:
    inner = x[COORD.start : COORD.stop]
    p = np.exp(inner - inner.max())
    p /= p.sum()
    bins, center = np.arange(len(p)), gold - COORD.start
    q = np.where(abs(bins - center) <= TRUNCATE, np.exp(-0.5 * ((bins - center) / SIGMA) ** 2), 0.0)
    q /= q.sum()
    part = {
        "soft_ce": -sum(q[i] * np.log(p[i]) for i in bins if q[i] > 0),
        "w1": sum(abs(p[: i + 1].sum() - q[: i + 1].sum()) for i in bins),
        "gate": -np.log(mass),
    }
    return part | {
        "loss": sum(WEIGHTS[name] * value for name, value in part.items()),
        "bin_error": abs((p * bins).sum() - center),
        "top_bin_error": abs(int(p.argmax()) - center),
    }


def basic(tokens: list[dict[str, Any]]) -> dict[str, tuple[float | None, int]]:
    """Key to (value, n) of what every population has; scikit-learn where it has the thing."""
    good = [t for t in tokens if t["finite"]]
    n = len(good)
    counts = {"n_tokens": (float(n), n), "n_nonfinite": (float(len(tokens) - n), n), "n_duplicate": (0.0, n)}
    if not n:
        keys = ("token_acc", "token_acc_top5", "nll", "perplexity", "entropy", "confidence")
        return dict.fromkeys(keys, (None, 0)) | counts
    gold = np.array([t["gold"] for t in good])
    p = np.stack([t["p"] for t in good])
    # Ties by lowest id: a rank as score, which has none.
    ranked = np.stack([-np.argsort(np.lexsort((np.arange(V), -t["x"]))) for t in good])
    values = {
        "token_acc": accuracy_score(gold, [t["top"] for t in good]),
        "token_acc_top5": top_k_accuracy_score(gold, ranked, k=5, labels=range(V)),
        "nll": log_loss(gold, p, labels=range(V)),
        "entropy": np.mean([t["entropy"] for t in good]),
        "confidence": np.mean([t["confidence"] for t in good]),
    }
    values["perplexity"] = np.exp(values["nll"])
    return {key: (float(value), n) for key, value in values.items()} | counts


def _mean(tokens: list[dict[str, Any]], of: Any) -> tuple[float | None, int]:
    values = [of(t) for t in tokens if t["finite"]]
    return (float(np.mean(values)), len(values)) if values else (None, 0)


def everything(tokens: list[dict[str, Any]]) -> dict[str, tuple[float | None, int]]:
    """Key to (value, n) of seed 000's family, without prefix."""
    kinds = {
        "coord": [t for t in tokens if t["gold"] in COORD],
        "text": [t for t in tokens if t["gold"] not in COORD],
        "desc": [t for t in tokens if t["is_desc"]],
        "format": [t for t in tokens if t["is_format"]],
    }
    found = basic(tokens)
    found["text_token_acc"] = _mean(kinds["text"], lambda t: t["correct"])
    for name in ("coord", "desc", "format"):
        mine = kinds[name]
        found[f"{name}_token_frac"] = _mean(tokens, lambda t, name=name: t[f"is_{name}"])
        found[f"{name}_token_acc"] = _mean(mine, lambda t: t["correct"])
        found[f"{name}_token_acc_top5"] = _mean(mine, lambda t: t["rank_of_gold"] < 5)
        found[f"{name}_nll"] = _mean(mine, lambda t: t["nll"])
    for name in ("text", "desc", "format"):
        found[f"coord_monitor/flip_{name}_to_coord"] = _mean(kinds[name], lambda t: t["top"] in COORD)
    found["coord_monitor/flip_coord_to_noncoord"] = _mean(kinds["coord"], lambda t: t["top"] not in COORD)
    for name, mine in kinds.items():
        found[f"coord_monitor/coord_vocab_mass_at_gt_{name}"] = _mean(mine, lambda t: t["mass"])
    for part in ("loss", "soft_ce", "w1", "gate"):
        found[f"coord_softce_w1/{part}"] = _mean(kinds["coord"], lambda t, part=part: t[part])
    found["coord_softce_w1/coord_vocab_mass"] = _mean(kinds["coord"], lambda t: t["mass"])
    count = sum(t["finite"] for t in kinds["coord"])
    found["coord_softce_w1/coord_tokens"] = (float(count), count)
    found["coord_softce_w1/n_nonfinite"] = (0.0, count)
    found["coord_bin_error"] = _mean(kinds["coord"], lambda t: t["bin_error"])
    found["coord_top_bin_error"] = _mean(kinds["coord"], lambda t: t["top_bin_error"])
    return found
