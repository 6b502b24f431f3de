"""From the text of a profile to a `Profile`; what is wrong is told with its line, its key, and what is allowed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from logitbox.analysis.doctor.fields import (
    BAND,
    KINDS,
    REQUIRED,
    RULE,
    TOP,
    Known,
    Reader,
    number,
    text,
    texts,
)
from logitbox.analysis.doctor.locating import Place, Source
from logitbox.analysis.doctor.profile import (
    Band,
    Check,
    Condition,
    Leaf,
    Need,
    Pattern,
    Profile,
    Range,
    Rule,
    Shown,
    Spike,
    Stage,
    Sustained,
    Trend,
)
from logitbox.errors import InputError

Table = Mapping[str, Any]

_LEAVES = {"sustained": Sustained, "spike": Spike, "trend": Trend}


def tables(source: Source) -> dict[str, Any]:
    """The TOML of a profile. Raises InputError, with the line, where it is none."""
    try:
        return tomllib.loads(source.text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{source.name} is no TOML: {error}") from error


def parse(source: Source, base: Profile | None = None) -> Profile:
    """A profile from its text.

    Args:
        source: the text.
        base: the profile that `extends` names; its rules come first, and those of the same name are replaced.

    Raises:
        InputError: an unknown key, a value that is not allowed, a rule without what its kind needs.
    """
    data = tables(source)
    _only(source, [], data, TOP)
    known = Known(
        constants={} if base is None else base.constants,
        stages=_stages(source, data, base),
        actions=_lists(source, data, base),
    )
    known = Known({**known.constants, **_numbers(source, data, "constants")}, known.stages, known.actions)
    own = [
        _rule(source, ["rule", i], table, known) for i, table in enumerate(_array(source, [], data, "rule"))
    ]
    _unique(source, own)
    return Profile(
        name=_text(source, [], data, "name", "profile"),
        about=_text(source, [], data, "about", ""),
        rules=_merged(source, data, own, base),
        constants=known.constants,
        stages=known.stages,
        actions=known.actions,
        aliases={**({} if base is None else base.aliases), **_words(source, data, "aliases")},
        needs={**({} if base is None else base.needs), **_words(source, data, "needs")},
        dashboard=_dashboard(source, data) or (() if base is None else base.dashboard),
    )


def _merged(source: Source, data: Table, own: Sequence[Rule], base: Profile | None) -> tuple[Rule, ...]:
    """The rules of the base that are neither dropped nor replaced in their places, then the new ones."""
    inherited = {} if base is None else {rule.name: rule for rule in base.rules}
    dropped = _read(source, ["drop"], lambda _, given: texts(given), data["drop"]) if "drop" in data else ()
    for name in dropped:
        if name not in inherited:
            raise source.error(
                ["drop"], f"names {name!r}; rules to drop are {', '.join(inherited) or 'none'}"
            )
    found = inherited | {rule.name: rule for rule in own}
    rules = tuple(
        rule for name, rule in found.items() if name not in dropped or name in {r.name for r in own}
    )
    if not rules:
        raise source.error([], "has no [[rule]]; see docs/doctor.md for what a rule looks like")
    return rules


def _unique(source: Source, rules: Sequence[Rule]) -> None:
    seen: dict[str, int] = {}
    for i, rule in enumerate(rules):
        if rule.name in seen:
            raise source.error(
                ["rule", i, "name"],
                f"is {rule.name!r}, as is rule {seen[rule.name] + 1}'s; give each its own",
            )
        seen[rule.name] = i


def _rule(source: Source, place: Place, table: Table, known: Known) -> Rule:
    kind = _kind(source, place, table, leaf=False)
    special = {
        "kind",
        "need",
        "excuse",
        *(("condition",) if kind == "pattern" else ()),
        *(("bands",) if kind == "range" else ()),
    }
    _only(source, place, table, [*RULE, *KINDS[kind], *sorted(special)])
    for name in ("name", "title"):
        if name not in table:
            raise source.error(
                place, f"has no {name!r}; a rule needs name, title, kind and {', '.join(REQUIRED[kind])}"
            )
    common = _fields(source, place, table, RULE, known)
    needs, excuses = (
        tuple(
            _need(source, [*place, name, i], need, known)
            for i, need in enumerate(_array(source, place, table, name))
        )
        for name in ("need", "excuse")
    )
    return Rule(check=_check(source, place, table, kind, known), needs=needs, excuses=excuses, **common)


def _check(source: Source, place: Place, table: Table, kind: str, known: Known) -> Check:
    if kind != "pattern":
        return _leaf(source, place, table, kind, known)
    given = _array(source, place, table, "condition")
    if len(given) < 2:
        raise source.error(
            [*place, "condition"],
            "is fewer than two tables; a pattern puts several [[rule.condition]] together",
        )
    conditions = tuple(
        _condition(source, [*place, "condition", i], inner, known) for i, inner in enumerate(given)
    )
    least = _fields(source, place, table, KINDS["pattern"], known).get("least", len(conditions))
    if least > len(conditions):
        raise source.error([*place, "least"], f"is {least}, but there are {len(conditions)} conditions")
    return Pattern(conditions, least)


def _condition(source: Source, place: Place, table: Table, known: Known) -> Condition:
    kind = _kind(source, place, table, leaf=True)
    extra = ["kind", "seed", "must", *(["bands"] if kind == "range" else [])]
    _only(source, place, table, [*KINDS[kind], *extra])
    seed = _read(source, [*place, "seed"], Known.bound, table["seed"], known) if "seed" in table else None
    must = _read(source, [*place, "must"], RULE["wanted"], table["must"]) if "must" in table else False
    return Condition(_leaf(source, place, table, kind, known), seed, must)


def _need(source: Source, place: Place, table: Table, known: Known) -> Need:
    kind = _kind(source, place, table, leaf=True)
    also = ["unless_set"] if "need" in place else []
    _only(source, place, table, [*KINDS[kind], "kind", "told", *also])
    if "told" not in table:
        raise source.error(place, "has no 'told', the words for it")
    unless = table.get("unless_set", "")
    if unless and unless not in known.constants:
        raise source.error(
            [*place, "unless_set"], f"is {unless!r}; constants are {', '.join(known.constants) or 'none'}"
        )
    told = _read(source, [*place, "told"], lambda _, given: text(given), table["told"])
    return Need(_leaf(source, place, table, kind, known), told, unless)


def _leaf(source: Source, place: Place, table: Table, kind: str, known: Known) -> Leaf:
    for name in REQUIRED[kind]:
        if name not in table:
            raise source.error(place, f"has no {name!r}; the kind {kind!r} needs {', '.join(REQUIRED[kind])}")
    fields = _fields(source, place, table, KINDS[kind], known)
    if kind == "range":
        return _range(source, place, table, fields, known)
    if kind == "sustained" and ("above" in fields) == ("below" in fields):
        raise source.error(place, "needs 'above' or 'below', and not both")
    if kind == "trend" and "by" not in fields and not fields.get("each"):
        raise source.error(place, "needs 'by', how much of a change counts, or each = true")
    if kind == "trend" and fields["direction"] == "flat" and "by" not in fields:
        raise source.error(place, "needs 'by', the change that is too small to count")
    return _LEAVES[kind](**fields)


def _range(source: Source, place: Place, table: Table, fields: dict[str, Any], known: Known) -> Range:
    ends = {name: fields.pop(name) for name in ("low", "high", "stage") if name in fields}
    if ("bands" in table) == bool(ends):
        raise source.error(place, "needs 'bands', or 'low' and 'high' (or one of them), and not both")
    if ends:
        if not {"low", "high"} & set(ends):
            raise source.error(place, "needs 'low' or 'high'")
        return Range(bands=(Band("in range", **ends),), **fields)
    bands: list[Band] = []
    for i, band in enumerate(_array(source, place, table, "bands")):
        here = [*place, "bands", i]
        _only(source, here, band, BAND)
        if "name" not in band:
            raise source.error(here, "has no 'name'")
        bands.append(Band(**_fields(source, here, band, BAND, known)))
    if not any(band.status == "pass" for band in bands):
        raise source.error([*place, "bands"], "hold no band to pass in; leave the status of one away")
    return Range(bands=tuple(bands), **fields)


def _kind(source: Source, place: Place, table: Table, *, leaf: bool) -> str:
    allowed = [name for name in KINDS if not (leaf and name == "pattern")]
    kind = table.get("kind", "range" if leaf else None)
    if kind is None:
        raise source.error(place, f"has no 'kind'; kinds are {', '.join(allowed)}")
    if kind not in allowed:
        raise source.error([*place, "kind"], f"is {kind!r}; allowed are {', '.join(allowed)}")
    return kind


def _fields(
    source: Source, place: Place, table: Table, readers: Mapping[str, Reader], known: Known
) -> dict[str, Any]:
    return {
        name: _read(source, [*place, name], reader, table[name], known)
        for name, reader in readers.items()
        if name in table
    }


def _read(source: Source, place: Place, reader: Reader, given: object, known: Known | None = None) -> Any:
    try:
        return reader(known or Known({}, {}, {}), given)
    except InputError as error:
        raise source.error(place, str(error)) from None


def _only(source: Source, place: Place, table: Table, allowed: Sequence[str] | Mapping[str, Any]) -> None:
    for name in table:
        if name not in allowed:
            raise source.error([*place, name], f"is unknown; allowed are {', '.join(allowed)}")


def _array(source: Source, place: Place, table: Table, name: str) -> list[Table]:
    given: Any = table.get(name, [])
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise source.error([*place, name], "is no list of tables; write them as [[rule]], or { … } in a list")
    return given


def _table(source: Source, data: Table, name: str) -> Table:
    given: Any = data.get(name, {})
    if not isinstance(given, dict):
        raise source.error([name], f"is no table; write it as [{name}]")
    return given


def _text(source: Source, place: Place, table: Table, name: str, default: str) -> str:
    return (
        _read(source, [*place, name], lambda _, given: text(given), table[name]) if name in table else default
    )


def _numbers(source: Source, data: Table, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, given in _table(source, data, name).items():
        if not key.isidentifier() or key in ("C", "ln", "max"):
            raise source.error(
                [name, key], "is no name for a constant; letters, digits and _, and none of C, ln, max"
            )
        found[key] = _read(source, [name, key], lambda _, value: number(value), given)
    return found


def _words(source: Source, data: Table, name: str) -> dict[str, str]:
    return {
        key: _read(source, [name, key], lambda _, value: text(value), given)
        for key, given in _table(source, data, name).items()
    }


def _lists(source: Source, data: Table, base: Profile | None) -> dict[str, tuple[str, ...]]:
    own = {
        key: _read(source, ["actions", key], lambda _, value: texts(value), given)
        for key, given in _table(source, data, "actions").items()
    }
    return ({} if base is None else dict(base.actions)) | own


def _stages(source: Source, data: Table, base: Profile | None) -> dict[str, Stage]:
    found: dict[str, Stage] = {} if base is None else dict(base.stages)
    for name, given in _table(source, data, "stages").items():
        ends: Any = given
        ok = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, (int, float)) for end in ends)
        if not ok or not ends[0] < ends[1]:
            raise source.error(
                ["stages", name], f"is {given!r}; give the first and last epoch, such as [1, 5] or [15, inf]"
            )
        found[name] = Stage(name, float(ends[0]), float(ends[1]))
    return found


def _dashboard(source: Source, data: Table) -> tuple[Shown, ...]:
    found: list[Shown] = []
    for i, table in enumerate(_array(source, [], data, "dashboard")):
        place = ["dashboard", i]
        _only(source, place, table, ("key", "role"))
        if "key" not in table:
            raise source.error(place, "has no 'key'")
        found.append(Shown(_text(source, place, table, "key", ""), _text(source, place, table, "role", "")))
    return tuple(found)
