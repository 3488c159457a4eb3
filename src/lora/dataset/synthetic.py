"""Synthesised speech: its rows say so, and no test set may hold any, because scores must be of people's speech."""

from lora.dataset.manifest import Manifest
from lora.errors import ManifestError

SYNTHETIC = "synthetic"
"""Key in a row's `meta` that holds engine, voice, seed and what was said."""


def require_real(manifest: Manifest, name: str, remedy: str) -> None:
    """Raises `ManifestError` with the first synthesised line of a set that must hold people's speech."""
    lines = [utterance.line for utterance in manifest if SYNTHETIC in (utterance.meta or {})]
    if lines:
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        raise ManifestError(
            f"{manifest.path} line {lines[0]}{more}: synthesised speech in the {name} set, which would say nothing of people; {remedy}"
        )
