"""Which models are served, each under a name: a run, an adapter, or a checkpoint."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora.checkpoints import provenance
from lora.checkpoints.provenance import ADAPTER_SETTINGS, Origin
from lora.errors import CheckpointError, ConfigError, RequestError
from lora.language import Language, code, traits
from lora.longform.recording import Listener
from lora.runs.export_record import EXPORT_FILE
from lora.system.artifacts import ADAPTER_FOLDER, CHECKPOINT_FOLDER, PROCESSOR_FOLDER, RECORD_FILE
from lora.system.device import Device, Precision
from lora.transcribe import Request, Transcriber, open_transcriber


@dataclass(frozen=True, slots=True)
class Computing:
    """How all models compute."""

    device: Device
    precision: Precision
    batch_size: int
    language: Language | None


@dataclass(frozen=True)
class Served:
    """A loaded model that answers to a name."""

    name: str
    transcriber: Transcriber
    listener: Listener
    since: int
    """When it was loaded, in seconds since 1970."""

    @property
    def language(self) -> Language:
        return self.transcriber.language


def open_models(named: Sequence[tuple[str, str]], computing: Computing) -> dict[str, Served]:
    """Loads every model, given as name and source, in their order.

    Raises what `open_transcriber` raises, and `ConfigError` for a name that is given twice.
    """
    names = [name for name, _ in named]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"--model {doubled}=...: the name is given twice; each model needs its own")
    requests = {name: request_of(source, computing) for name, source in named}  # all folders are checked before hours of downloads
    return {name: _opened(name, request) for name, request in requests.items()}


def request_of(source: str, computing: Computing) -> Request:
    """The request that loads a source. Raises `CheckpointError` for a folder that holds nothing to serve."""
    folder = Path(source).expanduser()
    if (folder / RECORD_FILE).is_file():
        return _of_run(folder, computing)
    if (folder / ADAPTER_SETTINGS).is_file():
        return _of_adapter(folder, None, computing)
    if (folder / EXPORT_FILE).is_file():
        raise CheckpointError(f"{folder}: is an export; serve its merged/ folder, which `export --to merged` makes, or the run itself")
    return _request(source, None, None, None, computing, computing.language)


def found(models: Mapping[str, Served], name: str) -> Served:
    """The model of that name. Raises `RequestError`, which names the known ones."""
    if name not in models:
        known = ", ".join(models)
        raise RequestError(404, f"no model is named {name!r}; known are {known}", param="model", code="model_not_found")
    return models[name]


def require_language(served: Served, language: str) -> None:
    """Raises `RequestError` if a client says that the speech is of another language than the model's; `en-GB` is `en`."""
    if language.replace("_", "-").split("-")[0].casefold() != code(served.language):
        own = f"{traits(served.language).name} ({code(served.language)})"
        raise RequestError(400, f"the model {served.name} transcribes {own}, not {language!r}; leave `language` out", param="language")


def _of_run(folder: Path, computing: Computing) -> Request:
    if (folder / CHECKPOINT_FOLDER).is_dir():  # whole weights were trained
        return _request(str(folder / CHECKPOINT_FOLDER), None, None, None, computing, None)
    if not (folder / ADAPTER_FOLDER).is_dir():
        raise CheckpointError(f"{folder}: holds no {ADAPTER_FOLDER}/; give the --output-dir of a finished run")
    return _of_adapter(folder / ADAPTER_FOLDER, folder / PROCESSOR_FOLDER, computing)


def _of_adapter(folder: Path, processor_folder: Path | None, computing: Computing) -> Request:
    """An adapter brings the model that it was trained on."""
    origin = provenance.read(folder, Origin)
    return _request(origin.base_model_id, origin.base_revision, folder, processor_folder, computing, None)


def _request(
    model_id: str,
    revision: str | None,
    adapter_folder: Path | None,
    processor_folder: Path | None,
    computing: Computing,
    language: Language | None,
) -> Request:
    """Six parameters: four say what is loaded, two how."""
    return Request(
        model_id=model_id,
        revision=revision,
        adapter_folder=adapter_folder,
        processor_folder=processor_folder,
        device=computing.device,
        precision=computing.precision,
        batch_size=computing.batch_size,
        tokens_per_second=None,
        language=language,
    )


def _opened(name: str, request: Request) -> Served:
    transcriber = open_transcriber(request)
    return Served(name, transcriber, Listener(transcriber, timed=False), int(time.time()))
