"""Profiles by name (shipped with the package) or by file (a user's own)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from os import PathLike
from pathlib import Path

from logitbox.analysis.doctor.locating import Source
from logitbox.analysis.doctor.parsing import parse, tables
from logitbox.analysis.doctor.profile import Profile
from logitbox.errors import InputError

SHIPPED = ("classification", "language-model")


def load_profile(wanted: str | PathLike[str]) -> Profile:
    """A profile by its name, or from a TOML file.

    Raises:
        InputError: there is no such profile or file, or it is wrong somewhere (told with line and key).
    """
    if isinstance(wanted, str) and wanted in SHIPPED:
        return shipped(wanted)
    if not isinstance(wanted, (str, PathLike)):
        raise InputError(f"profile is {wanted!r}; give {', '.join(SHIPPED)}, or the path of a TOML file")
    path = Path(wanted)
    if not path.is_file():
        raise InputError(
            f"there is no profile {str(wanted)!r}; give {', '.join(SHIPPED)}, or the path of a TOML file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as text ({error}); a profile is a TOML file in UTF-8"
        ) from error
    return profile_of(Source(str(path), text))


def profile_of(source: Source) -> Profile:
    """A profile from text, after the shipped one that it extends, if it does."""
    extends = tables(source).get("extends")
    if extends is None:
        return parse(source)
    if extends not in SHIPPED:
        raise source.error(["extends"], f"is {extends!r}; shipped profiles are {', '.join(SHIPPED)}")
    return parse(source, shipped(extends))


@cache
def shipped(name: str) -> Profile:
    """A profile that comes with the package."""
    text = (files("logitbox.analysis.doctor") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")
    return profile_of(Source(f"{name}.toml", text))
