"""`doctor`: what is wrong with a training run, by rules that are data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import polars as pl

from logitbox.analysis.doctor.diagnosis import Diagnosis, diagnose
from logitbox.analysis.doctor.loading import SHIPPED, load_profile, shipped
from logitbox.analysis.doctor.profile import Profile, keys_of
from logitbox.analysis.doctor.series import Facts, Series, series_frame, with_epochs
from logitbox.analysis.doctor.sources.logs import one_training, read_log, series_rows
from logitbox.analysis.logs.reading import is_log
from logitbox.analysis.passes import Progress
from logitbox.dumps.dump import Dump, open_dump
from logitbox.errors import InputError

if TYPE_CHECKING:
    from logitbox.analysis.classification import Classification

Log = Sequence[Mapping[str, Any]]
_SHOWN_KEYS = 6
"""Keys of a log that an error names."""
_OF_CLASSIFIERS = frozenset(
    [
        "val/accuracy",
        "eval_accuracy",
        "val/macro_f1",
        "eval_f1",
        "eval_macro_f1",
        "train/accuracy",
        "val_accuracy",
    ]
)
_OF_TOKENS = frozenset(
    ["perplexity", "eval_perplexity", "mean_token_accuracy", "eval_token_acc", "token_acc"]
)


def doctor(
    dump_or_log: Dump | Classification | str | PathLike[str] | Log | pl.DataFrame,
    profile: str | PathLike[str] | None = None,
    *,
    phase: str | None = None,
    classes: int | None = None,
    steps_per_epoch: float | None = None,
    constants: Mapping[str, float] | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Judge a training run by rules, and say what to do.

    Args:
        dump_or_log: a dump or its folder; or a log: a file (`trainer_state.json`, JSON, JSON lines, CSV, …), a
            folder of TensorBoard event files, a list of dicts, or a frame with a row for each time something was logged. What `classification` returned is judged as it
            is, with its names, buckets, batches and window; its expected pairs are no finding.
        profile: "classification", "language-model", or the path of a TOML file of your own (docs/doctor.md). By default
            the one that fits: classification where every sample is one prediction.
        phase: the evaluation phase of a dump to judge; by default "val", "eval" or another usual name.
        classes: how many classes there are, where it is a log that does not tell.
        steps_per_epoch: optimizer steps per epoch, where epochs are not recorded.
        constants: values for the profile's [constants], such as {"clip": 1.0}.
        executor: where shards are summed up.
        progress: told after every shard.

    Returns:
        A `Diagnosis`: a finding for each rule. Rules that need what is not there report "not enough data", and what it is.

    Raises:
        InputError: a bad argument, an unreadable log, or a wrong profile (told with line and key).
        DumpError: the dump cannot be read.
    """
    _check(classes, steps_per_epoch)
    source = _opened(dump_or_log)
    rules = load_profile(profile or _fitting(source))
    given = _constants(constants or {}, rules)
    if isinstance(source, Dump):
        series = _of_dump(source, rules, phase, executor, progress)
    elif phase is not None:
        raise InputError(f"phase is {phase!r}; only of a dump can a phase be chosen")
    elif not isinstance(source, list):
        from logitbox.analysis.doctor.sources.classifiers import series_of  # noqa: PLC0415 (see _of_dump)

        series = series_of(source, rules.aliases, _pairs(rules))
    else:
        series = _of_log(
            source, rules, str(dump_or_log) if isinstance(dump_or_log, (str, PathLike)) else "a log"
        )
    facts = series.facts
    missing = {key: f"it takes {need}" for key, need in rules.needs.items()} | dict(facts.missing)
    facts = Facts(facts.source, classes or facts.classes, facts.phase, facts.has_logits, missing, facts.notes)
    return diagnose(Series(with_epochs(series.frame, steps_per_epoch), facts), rules, given)


def _check(classes: int | None, steps_per_epoch: float | None) -> None:
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
        raise InputError(f"classes is {classes!r}; give a whole number from 2 on")
    if steps_per_epoch is not None and not (
        isinstance(steps_per_epoch, (int, float))
        and not isinstance(steps_per_epoch, bool)
        and 0 < steps_per_epoch < float("inf")
    ):
        raise InputError(f"steps_per_epoch is {steps_per_epoch!r}; give a number above 0")


def _opened(
    given: Dump | Classification | str | PathLike[str] | Log | pl.DataFrame,
) -> Dump | Classification | list[dict[str, Any]]:
    from logitbox.analysis.classification import Classification  # noqa: PLC0415 (see _of_dump)

    if isinstance(given, (Dump, Classification)):
        return given
    if isinstance(given, pl.DataFrame):
        return given.to_dicts()
    if isinstance(given, (str, PathLike)):
        path = Path(given)
        return read_log(path) if is_log(path) else open_dump(path)
    if isinstance(given, Sequence) and given and all(isinstance(row, Mapping) for row in given):
        return [{str(name): value for name, value in row.items()} for row in given]
    raise InputError(
        f"cannot read a {type(given).__name__} as a dump or a log; give a dump, a path, or a list of dicts"
    )


def _fitting(source: Dump | Classification | list[dict[str, Any]]) -> str:
    """The profile for a run nobody named one for."""
    if not isinstance(source, (Dump, list)):
        return "classification"
    if isinstance(source, Dump):
        from logitbox.analysis.doctor.sources.classifiers import is_classifier  # noqa: PLC0415 (see _of_dump)

        return "classification" if is_classifier(source) else "language-model"
    names = {name for row in source for name in row} | {str(row["key"]) for row in source if "key" in row}
    return "classification" if names & _OF_CLASSIFIERS and not names & _OF_TOKENS else "language-model"


def _constants(given: Any, profile: Profile) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise InputError(f"constants are {given!r}; give a dict such as {{'clip': 1.0}}")
    given = cast("Mapping[str, Any]", given)
    for name, value in given.items():
        if name not in profile.constants:
            known = ", ".join(profile.constants) or "none"
            raise InputError(f"the profile {profile.name} has no constant {name!r}; it has {known}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
            raise InputError(f"the constant {name} is {value!r}; give a number")
    return {name: float(value) for name, value in given.items()}


def _of_dump(
    dump: Dump, rules: Profile, phase: str | None, executor: Executor | None, progress: Progress | None
) -> Series:
    """Series of a dump: those of a classifier where it is one and the profile asks for its keys."""
    # Bound late: a log alone needs neither the classification nor the calibration side.
    from logitbox.analysis.doctor.sources.classifiers import classifier_series, is_classifier  # noqa: PLC0415
    from logitbox.analysis.doctor.sources.tokens import token_series  # noqa: PLC0415

    asked = {key for rule in rules.rules for key in keys_of(rule.check)}
    wants_classes = any(key.startswith(("val/", "learning/")) for key in asked)
    if wants_classes and is_classifier(dump):
        return classifier_series(dump, phase, rules.aliases, _pairs(rules), executor, progress)
    return token_series(dump, phase, rules.aliases, executor, progress)


def _pairs(rules: Profile) -> list[str]:
    return [pair for rule in rules.rules for pair in rule.only]


def _of_log(rows: Log, rules: Profile, name: str) -> Series:
    rows, notes = one_training(rows)
    frame = series_frame(series_rows(rows, rules.aliases))
    notes += [] if frame["epoch"].is_not_null().any() else ["no epochs were logged"]
    logged = [key for key in frame["key"].unique(maintain_order=True) if not key.startswith("nonfinite/")]
    if not _looked_at(logged, rules):
        names = dict.fromkeys(
            str(row["key"]) if "value" in row and "key" in row else str(key) for row in rows for key in row
        )
        some = ", ".join([*list(names)[:_SHOWN_KEYS], *(["…"] if len(names) > _SHOWN_KEYS else [])]) or "none"
        others = [shipped(other) for other in SHIPPED]
        if not any(key in other.aliases or _looked_at([key], other) for key in names for other in others):
            raise InputError(
                f"no metric recognised in {name}; its keys are {some}; "
                "a log has loss, eval_loss, val/accuracy, … or name columns so"
            )
        notes.append(f"the rules of {rules.name} look at none of its keys ({some})")
    return Series(frame, Facts(name, notes=tuple(notes)))


def _looked_at(keys: Sequence[str], rules: Profile) -> bool:
    """Whether a rule looks at any of these keys."""
    asked = {key for rule in rules.rules for key in keys_of(rule.check)}
    families = tuple(key.removesuffix("*") for key in asked if key.endswith("/*"))
    return any(key in asked or key.startswith(families) for key in keys)
