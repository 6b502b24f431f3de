"""Phases and datasets in the names of logged keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from logitbox.analysis.audit.aliases import EVAL_WORDS, OTHER_WORDS, TRAIN_WORDS
from logitbox.dumps.definitions.entries import Metric, prefix_of

_WORDS = (*TRAIN_WORDS, *EVAL_WORDS, *OTHER_WORDS)
_DATASET = re.compile(r"(.+)[_/](?:runtime|samples_per_second|steps_per_second)")


@dataclass(frozen=True)
class Phases:
    """How a log names phases and datasets.

    Attributes:
        known: phases there are; words: what may stand before a name, the longest first.
        canon: word to the phase it names, where that is another.
        datasets: phase to its datasets, "" among them if it has tokens without one.
        is_dump: whether phases and datasets are those of a dump, else read off the keys.
    """

    known: tuple[str, ...]
    words: tuple[str, ...]
    canon: Mapping[str, str]
    datasets: Mapping[str, tuple[str, ...]]
    is_dump: bool

    @property
    def all_datasets(self) -> tuple[str, ...]:
        """Names of datasets, of any phase."""
        return tuple(name for names in self.datasets.values() for name in names if name)

    def named(self, word: str) -> str:
        """The phase that a word names."""
        return self.canon.get(word.lower(), word)

    def split(self, key: str) -> tuple[str, str]:
        """(word for the phase, "" where there is none; the rest of the key): "eval_loss", "val/acc", "Loss/train"."""
        for word in self.words:
            if key.lower().startswith(tuple(word.lower() + joint for joint in "_/.")):
                return word, key[len(word) + 1 :]
        head, _, tail = key.rpartition("/")
        if head and tail.lower() in self.words:
            return tail.lower(), head
        return "", key

    def without_dataset(self, name: str, phase: str) -> tuple[str | None, str]:
        """(dataset, rest of a name from which the phase is gone)."""
        for dataset in sorted(self.datasets.get(phase, ()), key=len, reverse=True):
            for joint in "_/":
                if dataset and name.startswith(dataset + joint):
                    return dataset, name[len(dataset) + 1 :]
        return self.dataset(phase), name

    def dataset(self, phase: str) -> str | None:
        """The dataset of a key that names none; None where it could be any of several."""
        there = self.datasets.get(phase, ())
        if not self.is_dump or not there:
            return ""
        return there[0] if len(there) == 1 else None

    def full(self, metric: Metric) -> Iterator[tuple[str, str]]:
        """(key with prefix, phase) of a metric in every phase."""
        for phase in self.known:
            yield prefix_of(metric.family, phase, self.known) + metric.key, phase


def of_log(keys: Iterable[str], streams: Sequence[tuple[str, str]]) -> Phases:
    """The phases of a log, told by a dump's (phase, dataset) pairs where there are any, else by the keys."""
    keys = list(keys)
    said = {word for key in keys for word in EVAL_WORDS if _names(key.lower(), word)}
    canon: dict[str, str] = dict.fromkeys(TRAIN_WORDS, "train")
    datasets: dict[str, tuple[str, ...]] = {}
    for phase, dataset in streams:
        datasets[phase] = (*datasets.get(phase, ()), dataset)
    evals = [phase for phase in datasets if phase in EVAL_WORDS]
    if streams:
        # "val_loss" is about the phase "eval" where that is the only one of its kind.
        canon |= {word: evals[0] for word in EVAL_WORDS if len(evals) == 1 and word not in datasets}
        known = tuple(dict.fromkeys(("train", *datasets, *(() if evals else ("eval",)))))
        return Phases(known, _longest_first({*_WORDS, *datasets}), canon, datasets, is_dump=True)
    if len(said) == 1:
        canon |= dict.fromkeys(EVAL_WORDS, "eval")
    known = ("train", "eval", "test", *(("val",) if len(said) > 1 and "val" in said else ()))
    phases = Phases(known, _longest_first(_WORDS), canon, {}, is_dump=False)
    return Phases(known, phases.words, canon, _datasets_of(keys, phases), is_dump=False)


def _names(key: str, word: str) -> bool:
    """Whether a key names a phase: before the rest of it, or after a last slash."""
    return key.startswith((f"{word}_", f"{word}/", f"{word}.")) or key.endswith(f"/{word}")


def _datasets_of(keys: Iterable[str], phases: Phases) -> dict[str, tuple[str, ...]]:
    """Datasets whose running time is logged: trainers log that of every one ("eval_wiki_runtime")."""
    found: dict[str, tuple[str, ...]] = {}
    for key in keys:
        word, name = phases.split(key)
        match = _DATASET.fullmatch(name)
        if word and match:
            phase = phases.named(word)
            found[phase] = tuple(dict.fromkeys((*found.get(phase, ()), match[1])))
    return found


def _longest_first(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted((word for word in words if word), key=len, reverse=True))
