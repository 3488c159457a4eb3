"""A tuned model as a plain transformers checkpoint: no PEFT, no project code needed to load it."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any, Final

from lora.errors import ExportError
from lora.model.loading import LoadedModel
from lora.system.documents import read_json
from lora.system.files import write_json

_ROTARY: Final = ("partial_rotary_factor", "rope_theta")
"""What transformers 5 keeps under `rope_parameters`. Other readers look for it in the configuration itself, and take a default where it
is not: their texts are wrong then, without an error."""


def write_merged(speech: LoadedModel, folder: Path) -> None:
    """Writes weights, configuration and processor so that `pipeline("automatic-speech-recognition", folder)` loads them.

    What transformers 5 writes in new places is there in the old ones too: `preprocessor_config.json`, and rotary positions in
    `config.json` itself. The operating system's errors pass, as `OSError`.
    """
    # The writers of weights and tokenizer report a full disk in ways of their own, so it is asked first.
    tokenizer = len(speech.processor.tokenizer.backend_tokenizer.to_str(pretty=True).encode())
    weights = sum(parameter.nbytes for parameter in speech.model.parameters())
    if shutil.disk_usage(folder).free < weights + tokenizer:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    speech.model.save_pretrained(folder)
    speech.processor.save_pretrained(folder)
    write_older_names(speech, folder)


def write_older_names(speech: LoadedModel, folder: Path) -> None:
    """Lays `preprocessor_config.json` beside `config.json`, and puts rotary positions into the latter itself."""
    speech.processor.feature_extractor.save_pretrained(folder)
    config = read_json(folder / "config.json", dict[str, Any], ExportError)
    rotary = {name: config["rope_parameters"][name] for name in _ROTARY}
    write_json(folder / "config.json", {**config, **rotary})
