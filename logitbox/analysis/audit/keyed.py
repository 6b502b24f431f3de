"""The definitions that a log's own keys ask for: types, groups and answers are read off the seeds' keys."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from logitbox.dumps.definitions.entries import Metric
from logitbox.dumps.definitions.registry import metrics_of
from logitbox.dumps.detailed import AGENT_TYPES, DetailedSpec
from logitbox.dumps.spec import ACCEPT_REJECT, MAX_TYPES, Group, OrderedSpec, RecordSpec, TokenTypes

_NAME = r"([A-Za-z][A-Za-z0-9_]*?)"
_PHASE = r"^(?:(?:train|eval|val|test)[_/])?"
_TYPE = re.compile(rf"{_PHASE}{_NAME}_token_(?:acc|acc_top5|frac)$")
_GROUP = re.compile(rf"{_PHASE}{_NAME}_(?:monitor|softce_w1)/")
_ORDERED = re.compile(rf"{_PHASE}{_NAME}_softce_w1/")
_ANSWER = re.compile(rf"{_PHASE}avg_p_{_NAME}$")
_DECISION = re.compile(rf"{_PHASE}decision_(?:prob_mass|confidence|accuracy)$")
_AGENT = re.compile(rf"^(?:train|val)_(?:(?:{'|'.join(AGENT_TYPES)})_)?top\d+_prob$")
_TOP_ENTROPY = re.compile(r"_top(\d+)_entropy$")
_NO_TYPE = re.compile(r"top_?\d+|mean|avg|train|eval|val|test")
_MANY = 1 << 20


def metrics_of_keys(keys: Collection[str], datasets: Collection[str] = ()) -> list[Metric]:
    """Metrics of a session whose types, groups and answers are those that the keys name; datasets are no types."""
    return metrics_of(_spec(keys, datasets))


def _spec(keys: Collection[str], datasets: Collection[str]) -> RecordSpec:
    groups = _found(_GROUP, keys)
    answers = _found(_ANSWER, keys)
    if len(answers) < 2:
        answers = list(ACCEPT_REJECT) if any(_DECISION.search(key) for key in keys) else []
    taken = {*groups, *answers, *datasets, "text", *(f"non_{name}" for name in groups)}
    types = [name for name in _found(_TYPE, keys) if name not in taken and not _NO_TYPE.fullmatch(name)]
    is_agent = any(_AGENT.search(key) for key in keys)
    if is_agent:
        types += [name for name in AGENT_TYPES if name not in types]
    k = next((int(found[1]) for key in keys if (found := _TOP_ENTROPY.search(key))), 10)
    names = dict.fromkeys([*groups, *answers])
    return RecordSpec(
        vocab_size=_MANY,
        k=_MANY,
        groups=tuple(Group(name, range(index, index + 1)) for index, name in enumerate(names)),
        ordered={name: OrderedSpec() for name in _found(_ORDERED, keys)},
        types=TokenTypes(tuple(types[:MAX_TYPES])),
        detailed=DetailedSpec(enable_detailed_metrics=is_agent, entropy_k=max(k, 1)),
        answers=tuple(answers),
    )


def _found(pattern: re.Pattern[str], keys: Iterable[str]) -> list[str]:
    """Names that a pattern finds in the keys, each once."""
    return list(dict.fromkeys(found[1] for key in keys if (found := pattern.search(key))))
