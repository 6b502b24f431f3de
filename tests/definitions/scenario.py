"""A training run with everything that makes counting hard, and what the metrics of it must be.

Several steps of several micro-batches, ragged and packed rows, prompts, a sampler's repeated rows, NaN, a partly masked
vocabulary, special tokens, overlapping types, a step without desc tokens, data sets, and two passes at one step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from analysis_oracle import AGENT, BEST, COORD, V, agent, agent_prefix, decisions, everything, scored

from logitbox.dumps.recorder import Recorder

BOS, EOS, SPECIAL = 57, 58, (57, 58, 59)
ANSWERS = {"accept": (50, 51), "reject": (52,)}
NAMES = ("coord", "desc", "format")
ORDERED = {
    "sigma": 1.5, "truncate": 4, "temperature": 1.3, "gate_temperature": 2.0, "normalize_w1": True,
    "soft_ce_weight": 0.7, "w1_weight": 3.0, "gate_weight": 0.4,
}  # fmt: skip

Tokens = list[dict[str, Any]]
Expected = dict[str, tuple[float | None, int, float]]


class Words:
    """A tokenizer, as far as the Recorder looks at one."""

    bos_token_id, eos_token_id, all_special_ids = BOS, EOS, SPECIAL

    def __len__(self) -> int:
        return V

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"t{i}" for i in ids]


@dataclass
class Scenario:
    """What is recorded, and how."""

    types: tuple[str, ...] = (*NAMES, *AGENT)
    options: dict[str, Any] = field(default_factory=dict)
    ordered: dict[str, Any] = field(default_factory=lambda: ORDERED)
    seed: int = 0
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: Tokens = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        for step in range(4):
            for micro in range(2):
                self._add(rng, step=step, micro=micro, phase="train", has_desc=step != 2)
        for dataset, passes in (("a", 2), ("b", 1)):
            for pass_ in range(passes):
                for micro in range(2):
                    self._add(rng, step=3, micro=micro, phase="eval", dataset=dataset, pass_=pass_)
        if self.options.get("scope") == "all":
            self._add(rng, step=9, phase="train", is_labelled=False)  # no step of any metric

    def _add(
        self,
        rng: np.random.Generator,
        *,
        phase: str,
        step: int,
        micro: int = 0,
        dataset: str = "",
        pass_: int = 0,
        has_desc: bool = True,
        is_labelled: bool = True,
    ) -> None:
        rows, width = int(rng.integers(2, 5)), int(rng.integers(12, 20))
        ids = rng.integers(4, V, (rows, width))
        ids[rng.random(ids.shape) < 0.12] = rng.choice([50, 51, 52])
        cut, end = rng.integers(4, 8, rows), rng.integers(9, width + 1, rows)
        place = np.arange(width)
        real = place < end[:, None]
        position = np.where(place < cut[:, None], place, place - cut[:, None])
        labels = np.where(real & (rng.random(ids.shape) > 0.15), ids, -100)
        if not is_labelled:
            labels[:] = -100
        logits = self._logits(rng, ids)
        types = self._types(rng, ids, has_desc=has_desc)
        repeated = np.zeros(ids.shape, dtype=bool)
        repeated[-1] = micro == 1 and phase == "eval"
        where = {"phase": phase, "dataset": dataset, "step": step, "micro": micro}
        self.calls.append(
            where
            | {
                "logits": logits,
                "labels": torch.from_numpy(labels),
                "input_ids": torch.from_numpy(ids),
                "attention_mask": torch.from_numpy(real),
                "position_ids": torch.from_numpy(np.where(real, position, 0)),
                "types": {name: torch.from_numpy(mask) for name, mask in types.items() if name != "coord"},
                "flags": {"duplicate": torch.from_numpy(repeated)},
                "new_pass": micro == 0,
            }
        )
        document = place >= cut[:, None]
        for b in range(rows):
            slots = {}
            for t in range(1, width):
                if labels[b, t] in (50, 51, 52):
                    slots[bool(document[b, t])] = t
            for t in range(1, width):
                if labels[b, t] != -100:
                    self.tokens.append(
                        where
                        | {
                            "pass": pass_,
                            "gold": int(labels[b, t]),
                            "x": logits[b, t - 1].double().numpy(),
                            "is_special": int(labels[b, t]) in SPECIAL,
                            "is_duplicate": bool(repeated[b, t]),
                            "is_decision": t in slots.values(),
                            **{f"is_{name}": bool(mask[b, t]) for name, mask in types.items()},
                            **{f"is_{name}": int(labels[b, t]) in of for name, of in ANSWERS.items()},
                        }
                    )

    def _logits(self, rng: np.random.Generator, ids: np.ndarray) -> torch.Tensor:
        x = rng.normal(0, 3, (*ids.shape, V)).astype(np.float32)
        x[..., 3] = -np.inf  # part of the vocabulary is masked, everywhere
        x[
            rng.random(ids.shape) < 0.4, COORD.start + 9 : COORD.start + 12
        ] = -np.inf  # and bins of the coordinates, here and there
        x[rng.random(ids.shape) < 0.05, 7] = np.nan
        for b, t in zip(*np.nonzero(rng.random(ids.shape) < 0.6), strict=True):
            if t > 0:
                x[b, t - 1, ids[b, t]] += rng.integers(2, 12)
        return torch.from_numpy(x)

    def _types(self, rng: np.random.Generator, ids: np.ndarray, *, has_desc: bool) -> dict[str, np.ndarray]:
        coord = (ids >= COORD.start) & (ids < COORD.stop)
        desc = ~coord & (rng.random(ids.shape) < 0.5) & has_desc
        drawn = {name: rng.random(ids.shape) < 0.5 for name in AGENT}  # overlapping each other and the rest
        every = {"coord": coord, "desc": desc, "format": ~coord & ~desc} | drawn
        return {name: every[name] for name in self.types}

    def record(self, path: Path, read: Callable[[Recorder], Any]) -> Any:
        """Record it all, and give what `read` made of the Recorder before it was closed."""
        given = {"k": 12, "probes": True} | self.options
        with Recorder(
            path,
            Words(),
            groups={"coord": COORD},
            ordered={"coord": self.ordered},
            types=self.types,
            answers=ANSWERS,
            **given,
        ) as rec:
            for call in self.calls:
                call = dict(call)  # noqa: PLW2901
                if call.pop("new_pass"):
                    rec.start_pass(call["phase"], call["dataset"])
                rec.record(**call)
            return read(rec)

    def expected(self, phase: str, reduction: str) -> tuple[Expected, Expected]:
        """(keys of seed 001, all others), without prefix: value, tokens, what rounding may do."""
        mine = [scored(t, self.ordered) for t in self.tokens if t["phase"] == phase]
        if reduction == "token_mean":
            return self._values(mine)
        steps = defaultdict(list)
        for t in mine:
            steps[t["dataset"], t["pass"], t["step"]].append(t)
        parts = [self._values(tokens) for tokens in steps.values()]
        return tuple(mean_over([part[i] for part in parts]) for i in range(2))

    def _values(self, tokens: Tokens) -> tuple[Expected, Expected]:
        others = everything(tokens, self.types) | decisions(tokens, ANSWERS)
        split = (
            [name for name in AGENT if name in self.types]
            if self.is_on("enable_token_classification")
            else []
        )
        detailed = agent(tokens, split) if self.is_on("enable_detailed_metrics") else {}
        return detailed, {key: (*value, 0.0) for key, value in others.items()}

    def is_on(self, switch: str) -> bool:
        detailed = self.options.get("detailed")
        return detailed is not False and (not isinstance(detailed, dict) or detailed.get(switch, True))

    def known(self, count: int) -> bool:
        """Whether the recorded k allows a metric over that many of the best tokens."""
        return self.options.get("k", 12) >= count

    def full(self, reduction: str) -> Iterator[tuple[str, tuple[float | None, int, float]]]:
        """Every key with its prefix, of both phases; values over more tokens than k are None."""
        for phase, before in (("train", ""), ("eval", "eval_")):
            detailed, others = self.expected(phase, reduction)
            for key, value in others.items():
                yield before + key, value
            for key, (value, n, slack) in detailed.items():
                count = next((c for c in (10, 5, 2) if f"top{c}_" in key and c in (*BEST, 10)), 1)
                is_known = self.known(count)
                found = (value, n, slack) if is_known else (None, 0, 0.0)
                yield agent_prefix(phase, {"train", "eval"}) + key, found


def mean_over(steps: list[Expected]) -> Expected:
    """Plain means over steps, those without a value left out."""
    found: Expected = {}
    for key in steps[0]:
        there = [step[key] for step in steps if step[key][0] is not None]
        n = sum(step[key][1] for step in steps)
        value = float(np.mean([value for value, *_ in there])) if there else None
        found[key] = (value, n, float(np.mean([slack for *_, slack in there])) if there else 0.0)
    return found
