"""What an inequality is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from logitbox.analysis.audit.inequalities.interval import Interval

ANY_FRACTION = "any fraction"
"""Pattern of all keys that lie in [0, 1]."""

_BRACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, eq=False)
class Known:
    """What one logged key tells.

    Attributes:
        key: as logged.
        value, population: of its meaning; of sums of means both are put together with "+".
        transform: of its meaning.
        is_fraction: whether it lies in [0, 1].
        interval: of the value, any transform undone, [moments].
    """

    key: str
    value: str
    population: str
    transform: str
    is_fraction: bool
    interval: Interval


@dataclass(frozen=True)
class Facts:
    """What is known of a run beside its keys; None where it is not."""

    vocab_size: int | None = None
    smoothing: float | None = None


@dataclass(frozen=True, eq=False)
class At:
    """The keys that an inequality is evaluated on: `at["ce"]` is the interval of the one in that role.

    Attributes:
        known: role to key.
        names: what the patterns' braces stand for.
        facts: of the run.
    """

    known: Mapping[str, Known]
    names: Mapping[str, str]
    facts: Facts

    def __getitem__(self, role: str) -> Interval:
        return self.known[role].interval

    @property
    def vocab_size(self) -> int:
        """V, where the inequality needs it."""
        return self.facts.vocab_size or 1

    @property
    def k(self) -> int:
        """What {k} stands for."""
        return int(self.names["k"])


def _always(names: Mapping[str, str]) -> bool:
    del names
    return True


@dataclass(frozen=True)
class Inequality:
    """left ≥ right (or left = right), of means over the same tokens.

    Args:
        id: its name for ever.
        needs: role to the pattern of its key, "value@population". Braces stand for anything, the same one where they
            have the same name ({k} and {j} for whole numbers); "#exp" after it asks for keys with such a transform,
            "#identity" for those without.
        left, right: the two sides.
        formula: in symbols.
        about: what it says and why it holds.
        repair: what to look at first.
        relation: "≥" or "=".
        when: of the braces' meanings, whether it holds for these.
        facts: attributes of `Facts` without which it says nothing.
        convicts: whether it holds for any way of averaging that both sides share; else it is only noticed.
        converse: id of the one with the sides exchanged; where both hold, both sides are equal.
    """

    id: str
    needs: Mapping[str, str]
    left: Callable[[At], Interval]
    right: Callable[[At], Interval]
    formula: str
    about: str
    repair: str
    relation: Literal["≥", "="] = "≥"
    when: Callable[[Mapping[str, str]], bool] = _always
    facts: tuple[str, ...] = field(default=())
    convicts: bool = True
    converse: str = ""

    def uses(self, known: Sequence[Known], facts: Facts) -> Iterator[At]:
        """Every choice of keys that it speaks about."""
        if any(getattr(facts, name) is None for name in self.facts):
            return
        for chosen, names in _choices(list(self.needs.items()), known, {}, {}):
            if self.when(names):
                yield At(chosen, names, facts)


@dataclass(frozen=True)
class Held:
    """Something that logged keys imply of each other, and that holds in every row.

    Attributes:
        inequality: id in the registry.
        run, step: where it comes nearest to being broken; step None where the log does not tell.
        keys: the logged keys.
        lhs, rhs: both sides there.
        formula: in symbols.
        rows: in which both sides are logged.
    """

    inequality: str
    run: int
    step: int | None
    keys: tuple[str, ...]
    lhs: float
    rhs: float
    formula: str
    rows: int

    @property
    def slack(self) -> float:
        """How far the sides are apart."""
        return abs(self.lhs - self.rhs)

    @property
    def ratio(self) -> float | None:
        """Left side over right side; None where the right is not above 0."""
        return self.lhs / self.rhs if self.rhs > 0 else None

    @property
    def about(self) -> str:
        """In a sentence."""
        rows = f"{self.rows:,} row{'s' * (self.rows != 1)}"
        head = f"{self.formula} ({', '.join(self.keys)}) holds"
        if "≥" not in self.formula:
            return f"{head} to {self.slack:.1g} in {rows}" if self.slack else f"{head} exactly in {rows}"
        near = f"{self.slack:.3g} apart" if self.ratio is None else f"a factor of {self.ratio:.3g}"
        return f"{head} in {rows}, nearest {near}"


def _choices(
    roles: list[tuple[str, str]],
    known: Sequence[Known],
    chosen: Mapping[str, Known],
    names: Mapping[str, str],
) -> Iterator[tuple[Mapping[str, Known], Mapping[str, str]]]:
    """Depth first, one role after the other; braces keep what they came to stand for."""
    if not roles:
        yield chosen, names
        return
    (role, pattern), *others = roles
    for one in known:
        bound = _match(pattern, one, names)
        if bound is not None and one not in chosen.values():
            yield from _choices(others, known, {**chosen, role: one}, {**names, **bound})


def _match(pattern: str, known: Known, names: Mapping[str, str]) -> dict[str, str] | None:
    if pattern == ANY_FRACTION:
        return {} if known.is_fraction else None
    name, _, transform = pattern.partition("#")
    if transform and not known.transform.startswith(transform):
        return None
    bound = tuple((brace, names[brace]) for brace in _BRACE.findall(name) if brace in names)
    found = _expression(name, bound).fullmatch(f"{known.value}@{known.population}")
    return None if found is None else found.groupdict()


@lru_cache(maxsize=4096)
def _expression(pattern: str, names: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """A regular expression of a pattern, the braces known so far filled in."""
    bound, seen, parts = dict(names), set[str](), list[str]()
    for text, brace in re.findall(r"([^{]+)|\{(\w+)\}", pattern):
        if text:
            parts.append(re.escape(text))
        elif brace in bound:
            parts.append(re.escape(bound[brace]))
        elif brace in seen:
            parts.append(f"(?P={brace})")
        else:
            seen.add(brace)
            parts.append(f"(?P<{brace}>{r'[0-9]+' if brace in 'kj' else '[^@+]*'})")
    return re.compile("".join(parts))
