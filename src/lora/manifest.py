"""Manifests under the name that scripts know: `lora.dataset.manifest` reads and writes, `lora.dataset.checking` decodes what they name."""

from lora.dataset.checking import validate
from lora.dataset.manifest import Manifest, Recording, Row, Rules, Utterance, read, to_row, write

__all__ = ["Manifest", "Recording", "Row", "Rules", "Utterance", "read", "to_row", "validate", "write"]
