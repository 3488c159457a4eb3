"""The licences of the published checkpoints, as https://github.com/moonshine-ai/moonshine/blob/main/LICENSE has them (August 2026)."""

import re
from dataclasses import dataclass
from typing import Final

OWNERS: Final = ("moonshine-ai", "UsefulSensors")
"""The organisation of the published checkpoints on the hub, and its former name, which leads there too."""


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence as model cards name it. The hub has no name of its own for every licence: `other` with a name and a link then."""

    spelled: str
    name: str
    link: str | None = None


MIT: Final = Licence("the MIT License", "mit")

COMMUNITY: Final = Licence(
    "the Moonshine Community License, a non-commercial one",
    "moonshine-community-license",
    "https://github.com/moonshine-ai/moonshine/blob/main/LICENSE",
)

_PACKAGED: Final = re.compile(r"packaged:moonshine-(tiny|base)")
_PUBLISHED: Final = re.compile(
    rf"({'|'.join(OWNERS)})/moonshine-(?P<streaming>streaming-)?(tiny|base|small|medium)(-(?P<language>[a-z]{{2}}))?", re.IGNORECASE
)


def licence(model_id: str) -> Licence | None:
    """The licence of a published checkpoint; None for any other, since its name says nothing.

    All streaming models and all English ones are MIT. The older models of other languages are not.
    """
    if _PACKAGED.fullmatch(model_id):
        return MIT
    found = _PUBLISHED.fullmatch(model_id)
    if found is None:
        return None
    return MIT if found["streaming"] or found["language"] in (None, "en") else COMMUNITY
