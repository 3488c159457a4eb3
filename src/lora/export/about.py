"""The origin of a model, for file formats that record it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """`adapter` is its name, None for a base model. `license` is None if nobody has said it, and is then left out."""

    adapter: str | None = None
    license: str | None = None


NOTHING = About()
