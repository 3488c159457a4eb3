"""The folder that `pipeline("automatic-speech-recognition", folder)` of transformers.js loads, and a page that transcribes with it."""

import html
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lora.errors import ExportError
from lora.export.about import About
from lora.export.merged import write_older_names
from lora.language import traits
from lora.model.transcript import EXTRA_TOKENS
from lora.runtimes.separate import javascript_packages
from lora.system.documents import read_json
from lora.system.files import system_errors, write_json

if TYPE_CHECKING:
    from lora.model.loading import LoadedModel

LIBRARY_FILES: Final = (
    "@huggingface/transformers/dist/transformers.min.js",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
)
"""Files of the npm packages that a browser loads."""

DTYPES: Final = {"u8": ("q8", "_quantized"), "fp32": ("fp32", "")}
"""The names of precisions in transformers.js, and the suffixes of its graphs."""


def write_settings(speech: "LoadedModel", precision: str, folder: Path) -> None:
    """The JSON files beside the graphs. `config.json` says which graphs there are, so that nobody has to ask for them.

    The operating system's errors pass.
    """
    with system_errors():
        speech.model.config.save_pretrained(folder)
        speech.model.generation_config.save_pretrained(folder)
        speech.processor.save_pretrained(folder)
        write_older_names(speech, folder)
    config = read_json(folder / "config.json", dict[str, Any], ExportError)
    dtype, _ = DTYPES[precision]
    write_json(folder / "config.json", {**config, "transformers.js_config": {"dtype": dtype}})


def write_page(speech: "LoadedModel", about: About, folder: Path) -> None:
    """`index.html` and what it loads besides the model. Raises `FetchError` if npm cannot bring the library."""
    packages = javascript_packages() / "node_modules"
    (folder / "lib").mkdir()
    for name in LIBRARY_FILES:
        shutil.copyfile(packages / name, folder / "lib" / Path(name).name)
    page = (files("lora.export") / "page" / "index.html").read_text(encoding="utf-8")
    for mark, value in _marks(speech, about).items():
        page = page.replace("{{" + mark + "}}", value)
    (folder / "index.html").write_text(page, encoding="utf-8")


def _marks(speech: "LoadedModel", about: About) -> dict[str, str]:
    return {
        "name": html.escape(about.adapter or speech.checkpoint.model_id),
        "tokens_per_second": json.dumps(traits(speech.language).tokens_per_second),
        "extra_tokens": str(EXTRA_TOKENS),
    }
