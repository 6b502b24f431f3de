"""What a logged key is the name of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from logitbox.analysis.audit import phases
from logitbox.analysis.audit.aliases import (
    ADDED,
    ALIASES,
    HOUSEKEEPING,
    NOT_CROSS_ENTROPY,
    OBJECTIVES,
    PATTERNS,
)
from logitbox.analysis.audit.inequalities.summaries import run_loss
from logitbox.analysis.audit.keyed import metrics_of_keys
from logitbox.analysis.audit.phases import Phases
from logitbox.analysis.logs.frame import Logged
from logitbox.dumps.definitions.agent import PERPLEXITY_CAP
from logitbox.dumps.definitions.entries import Metric
from logitbox.dumps.definitions.registry import metrics_of
from logitbox.dumps.definitions.tokens import TYPED
from logitbox.dumps.spec import RecordSpec

CAPPED = "exp_cap_1e6"
"""Transform of seed 001's perplexity."""

_WHOLE_RUN = "the mean over the whole run, checked against the logged losses instead"

_SUMMARY = re.compile(r"(^|[/_])train_(runtime|steps_per_second|samples_per_second)$")


@dataclass(frozen=True)
class Meaning:
    """What the name of a logged key promises: its own definition is the token mean of a value over a population.

    Attributes:
        key: as logged, prefix included.
        terms: (value, population) each; a key is the sum of the token means of its terms, and all but composite losses
            have one. Values: "nll", "correct", "correct_top5", "entropy", "binary_entropy", "confidence", "mass_coord",
            "coord.gate", …. Populations: "" for all supervised tokens, else a token type, a group, its rest, or one of those
            without special tokens ("reasoning.plain").
        transform: "identity" or "exp" (perplexity), a name in `hypotheses.transforms`.
        phase, dataset: of the tokens it is about; `dataset` None where it could be of any.
        is_fraction: whether it lies in [0, 1].
        note: why it is audited as it is, or why not, in words; "" if there is nothing to say.
    """

    key: str
    terms: tuple[tuple[str, str], ...]
    transform: str = "identity"
    phase: str = "train"
    dataset: str | None = ""
    is_fraction: bool = False
    note: str = ""

    @property
    def value(self) -> str:
        """Value of the first term."""
        return self.terms[0][0]

    @property
    def population(self) -> str:
        """Population of the first term."""
        return self.terms[0][1]


def find_meanings(
    logged: Logged,
    run: int,
    specs: Sequence[RecordSpec] = (),
    streams: Sequence[tuple[str, str]] = (),
) -> tuple[dict[str, Meaning], dict[str, str]]:
    """What each logged key of a run promises.

    Args:
        logged: the log.
        run: which of its runs.
        specs: of a dump's sessions. With them, names are those of its definitions and other common names of these;
            without, types, groups and answers are read off the keys.
        streams: (phase, dataset) pairs of the dump.

    Returns:
        (key to its meaning, key to why it is not audited, in words); every key is in one of them.
    """
    frame = logged.frame.filter(pl.col("run") == run)
    reader = _Reader(frame, logged.framework, tuple(specs), tuple(streams))
    meanings: dict[str, Meaning] = {}
    left_out: dict[str, str] = {}
    for key in reader.keys:
        found = reader.read(key)
        if isinstance(found, Meaning):
            meanings[key] = found
        else:
            left_out[key] = found
    for key in [key for key, why in left_out.items() if why == _WHOLE_RUN]:
        if isinstance(why := run_loss(frame, key, training_losses(meanings)), str):
            left_out[key] = f"the mean over the whole run, which could not be checked: {why}"
    return meanings, left_out


def training_losses(meanings: Mapping[str, Meaning]) -> list[str]:
    """Keys of plain losses of training."""
    return [key for key, one in meanings.items() if _is_loss(one) and one.phase == "train"]


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads the keys of one run."""

    frame: pl.DataFrame
    framework: str
    specs: tuple[RecordSpec, ...]
    streams: tuple[tuple[str, str], ...]

    @cached_property
    def keys(self) -> dict[str, str]:
        """Key to the phase that its rows tell, of several the commonest."""
        told = self.frame.group_by("key", "phase", maintain_order=True).len().sort("len", maintain_order=True)
        order = dict.fromkeys(self.frame["key"], "train")
        return order | {str(key): str(phase or "train") for key, phase, _ in told.iter_rows()}

    @cached_property
    def phases(self) -> Phases:
        return phases.of_log(self.keys, self.streams)

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """All definitions, by their keys without prefix."""
        if not self.specs:
            return {m.key: m for m in metrics_of_keys(self.keys, self.phases.all_datasets)}
        return {m.key: m for spec in reversed(self.specs) for m in metrics_of(spec)}

    @cached_property
    def exact(self) -> dict[str, tuple[Metric, str]]:
        """Full key to (metric, phase)."""
        return {
            full: (metric, phase)
            for metric in self.metrics.values()
            for full, phase in self.phases.full(metric)
        }

    @cached_property
    def objectives(self) -> dict[str, str]:
        """Value to why its common names mean something else in this run."""
        found: dict[str, str] = {}
        for entry in OBJECTIVES:
            key = next((key for key in self.keys if re.search(entry.keys, key.lower())), None)
            if key is not None:
                for value in entry.touches:
                    found.setdefault(value, f"{key!r} is logged beside it, so the loss is {entry.about}")
        if self.framework == "llama-factory" and self.keys.get("accuracy") == "train" and not found:
            why = "LLaMA-Factory logs the accuracy of rewards under 'accuracy': a preference objective"
            found |= {"nll": why, "correct": why}
        return found

    def read(self, key: str) -> Meaning | str:
        """The meaning of a key, or why it has none."""
        if HOUSEKEEPING.search(key.lower()):
            return "no metric of tokens"
        metric, phase, dataset = self._exact(key) or self._by_name(key)
        if isinstance(metric, str):
            return metric
        meaning = metric if isinstance(metric, Meaning) else self._of_metric(key, metric)
        if isinstance(meaning, str):
            return meaning
        return self._judged(replace(meaning, phase=phase, dataset=dataset))

    def _exact(self, key: str) -> tuple[Metric, str, str | None] | None:
        if key not in self.exact:
            return None
        metric, phase = self.exact[key]
        if key == metric.key:
            # A bare key is of train, unless the row says otherwise.
            phase = self.phases.named(self.keys[key])
        return metric, phase, self.phases.dataset(phase)

    def _by_name(self, key: str) -> tuple[Metric | Meaning | str, str, str | None]:
        """By a name of the registry, another common name, or a pattern, after the phase and the dataset."""
        word, name = self.phases.split(key)
        phase = self.phases.named(word or self._phase_of_rows(key, name))
        dataset, name = self.phases.without_dataset(name, phase)
        metric = self.metrics.get(name)
        if metric is None or metric.family == "001":
            alias = ALIASES.get(name.lower(), "")
            metric = self.metrics.get(alias) or metric
        return metric or self._of_population(name) or self._by_pattern(key, name.lower()), phase, dataset

    def _of_population(self, name: str) -> Metric | None:
        """A metric of all tokens, over those of a type or group: "reasoning_loss", "text_ppl"."""
        for population in self.populations:
            if name.startswith((f"{population}_", f"{population}/")):
                rest = name[len(population) + 1 :]
                metric = self.metrics.get(ALIASES.get(rest.lower(), rest))
                if metric is not None and not metric.population and not metric.parts:
                    return replace(metric, population=population)
        return None

    @cached_property
    def populations(self) -> list[str]:
        """Token types, groups and their rests, the longest names first."""
        names = {metric.population for metric in self.metrics.values()}
        return sorted((name for name in names if name and "." not in name), key=len, reverse=True)

    def _by_pattern(self, key: str, name: str) -> Meaning | str:
        for pattern in PATTERNS:
            found = re.fullmatch(pattern.name, name)
            if found:
                value = pattern.value.format_map(found.groupdict())
                if not self.specs:
                    return Meaning(key, ((value, ""),), is_fraction=pattern.is_fraction)
                return f"the dump has no such metric: {value} is not recorded, or no mean over tokens"
        if NOT_CROSS_ENTROPY.search(name):
            return "its name says that it is no plain cross-entropy"
        return "no definition of this name is known"

    def _phase_of_rows(self, key: str, name: str) -> str:
        """The phase of a bare key; a perplexity that stands only beside evaluations is of them."""
        told = self.keys[key]
        if ALIASES.get(name.lower()) != "exp_nll" or told != "train":
            return told
        rows = self.frame.filter(pl.col("key") == key).select("run", "row")
        beside = self.frame.join(rows, on=["run", "row"], how="semi")["key"].unique().to_list()
        words = {self.phases.split(str(other))[0] for other in beside}
        has_loss = any(ALIASES.get(str(other).lower()) == "nll" for other in beside)
        return told if has_loss else next(iter(sorted(words - {"", "train"})), told)

    def _of_metric(self, key: str, metric: Metric) -> Meaning | str:
        if metric.reduction == "count":
            return "a count, not a mean over tokens"
        parts = [self.metrics[part] for part in metric.parts if part in self.metrics] or [metric]
        terms = tuple((part.quantity, self._population(part.population)) for part in parts)
        transform = "identity"
        if metric.reduction == "exp_token_mean":
            transform = CAPPED if metric.high == PERPLEXITY_CAP else "exp"
        is_fraction = (metric.low, metric.high) == (0, 1)
        return Meaning(key, terms, transform, is_fraction=is_fraction)

    def _population(self, name: str) -> str:
        """Without a dump, shares of types are taken to be of all tokens."""
        return "" if name == TYPED and not self.specs else name

    def _judged(self, meaning: Meaning) -> Meaning | str:
        """Leaves out what only looks like a metric; adds notes."""
        key, value = meaning.key, meaning.value
        is_ours = bool(self.specs) and key in self.exact
        if value in self.objectives and not is_ours:
            return self.objectives[value]
        if _is_loss(meaning) and not is_ours:
            if self._is_summary(key):
                return _WHOLE_RUN
            if told := self._below_zero(key):
                return told
            return replace(meaning, note=self._added)
        return meaning

    def _is_summary(self, key: str) -> bool:
        """Whether a training loss is only in summary rows, which are about the whole run."""
        if self.phases.split(key)[0] not in phases.TRAIN_WORDS:
            return False
        rows = self.frame.filter(pl.col("key") == key)["row"]
        summaries = self.frame.filter(pl.col("key").str.contains(_SUMMARY.pattern))["row"]
        is_alone = len(rows) == 1 and any(ALIASES.get(other) == "nll" for other in self.keys)
        return is_alone or rows.is_in(summaries.to_list()).all()

    def _below_zero(self, key: str) -> str:
        low = self.frame.filter(
            (pl.col("key") == key)
            & (pl.col("value") + pl.col("precision") < -1e-6)
            & pl.col("value").is_finite()
        )
        if low.is_empty():
            return ""
        worst = low.sort("value").row(0, named=True)
        return f"it goes below 0 ({worst['value']:.4g} at step {worst['step']}), which no cross-entropy does"

    @cached_property
    def _added(self) -> str:
        """What may have been added to the loss."""
        found = [
            about
            for expression, about in ADDED.items()
            if any(re.search(expression, key) for key in self.keys)
        ]
        found += ["the loss may hold that of an ordered group, too"] * any(
            spec.ordered for spec in self.specs
        )
        return "; ".join(found)


def _is_loss(meaning: Meaning) -> bool:
    return meaning.terms == (("nll", ""),) and meaning.transform == "identity"
