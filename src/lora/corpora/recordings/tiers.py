"""Chooses the tiers of a file: by name or pattern, otherwise the only one that holds text."""

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from lora.errors import ManifestError


class Named(Protocol):
    """A tier; as text it is its name and how much it holds."""

    @property
    def name(self) -> str: ...

    @property
    def texts(self) -> int: ...


TierT = TypeVar("TierT", bound=Named)


def matches(tier: Named, name: str) -> bool:
    return tier.name == name or fnmatch.fnmatchcase(tier.name, name)


def chosen(path: Path, tiers: Sequence[TierT], names: Sequence[str], match: Callable[[TierT, str], bool] = matches) -> list[TierT]:
    """The tiers of these names. Raises `ManifestError` that lists the tiers if one is missing or the choice is unclear."""
    listed = ", ".join(map(str, tiers)) or "none"
    if not names:
        found = [tier for tier in tiers if tier.texts]
        if len(found) != 1:
            reason = "several tiers hold text" if found else "no tier holds text with times"
            raise ManifestError(f"{path}: {reason}; choose with --tier: {listed}")
        return found
    for name in names:
        if not any(match(tier, name) for tier in tiers):
            raise ManifestError(f"{path}: has no tier {name!r} with times; it has {listed}")
    return [tier for tier in tiers if any(match(tier, name) for name in names)]
