"""A tuned model as a plain transformers checkpoint: no PEFT, no project code needed to load it."""

import errno
import os
import shutil
from pathlib import Path

from lora.model.loading import LoadedModel


def write_merged(speech: LoadedModel, folder: Path) -> None:
    """Writes weights, configuration and processor so that `pipeline("automatic-speech-recognition", folder)` loads them.

    The operating system's errors pass, as `OSError`.
    """
    # The writers of weights and tokenizer report a full disk in ways of their own, so it is asked first.
    tokenizer = len(speech.processor.tokenizer.backend_tokenizer.to_str(pretty=True).encode())
    weights = sum(parameter.nbytes for parameter in speech.model.parameters())
    if shutil.disk_usage(folder).free < weights + tokenizer:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    speech.model.save_pretrained(folder)
    speech.processor.save_pretrained(folder)
