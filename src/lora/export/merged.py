"""A tuned model as a plain transformers checkpoint: no PEFT, no project code needed to load it."""

from pathlib import Path

from safetensors import SafetensorError

from lora.errors import ExportError
from lora.model_utils import Speech


def write_merged(speech: Speech, folder: Path) -> None:
    """Writes weights, configuration and processor so that `pipeline("automatic-speech-recognition", folder)` loads them.

    The operating system's errors pass. Raises `ExportError` when the weights cannot be written.
    """
    try:
        speech.model.save_pretrained(folder)
    except SafetensorError as error:
        raise ExportError(f"{folder}: cannot be written ({error}); free some space on the disk or choose another place") from error
    speech.processor.save_pretrained(folder)
