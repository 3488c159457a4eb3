"""Which voices the app is started with: a checkpoint, adapters, a run. Settled before the screen opens, without loading a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from lora.checkpoints import provenance
from lora.checkpoints.provenance import Origin
from lora.errors import CheckpointError, ConfigError
from lora.language import Language
from lora.system.artifacts import ADAPTER_FOLDER, PROCESSOR_FOLDER
from lora_cli.engine.events import Voice

DEFAULT_MODEL: Final = "packaged:moonshine-tiny"

_PACKAGED: Final = "packaged:"


def choose(
    model_id: str | None,
    adapter_folders: Sequence[Path],
    run_folder: Path | None,
    language: Language | None = None,
    export_folders: Sequence[Path] = (),
) -> tuple[Voice, ...]:
    """What was trained first, in the order given, then the base models; without an adapter, the model alone.

    An adapter that is given without a model brings the one it was trained on. Exports stand for themselves, in the order given.

    Raises:
        ConfigError: a run is given together with a model or adapters.
        CheckpointError: an adapter is missing, or belongs to another model than the one named.
        OnDeviceError: a folder is no export, or has none for ONNX Runtime.
    """
    if export_folders:
        if model_id is not None or adapter_folders or run_folder is not None or language is not None:
            raise ConfigError("--export-dir: names model and language already; leave out --model-id, --adapter-dir, --run and --language")
        return _named([_exported(folder) for folder in export_folders])
    if language is not None and (run_folder is not None or adapter_folders):
        raise ConfigError("--language: a run and an adapter say it themselves; leave it out")
    if run_folder is not None:
        if model_id is not None or adapter_folders:
            raise ConfigError("--run: names model and adapter already; leave out --model-id and --adapter-dir")
        return _of_run(run_folder)
    if not adapter_folders:
        chosen = model_id or DEFAULT_MODEL
        return (Voice(_short(chosen), chosen, language=language),)
    tuned = [_tuned(folder, model_id) for folder in adapter_folders]
    return _named([*tuned, *_bases(tuned)])


def _exported(folder: Path) -> Voice:
    """By the name of the run that it is in, or its own."""
    from lora.runs.export_record import read_exported, require_files
    from lora.runtimes.ear import TARGET

    exported = read_exported(folder)
    require_files(folder, TARGET, exported)
    place = folder.resolve()
    name = place.parent.name if place.name == "export" else place.name
    return Voice(name, exported.model_id, language=exported.language, export_folder=folder)


def _of_run(folder: Path) -> tuple[Voice, ...]:
    found = provenance.tuned_by(folder)
    if found.adapter_folder is None:
        origin = found.base
        base = Voice(_short(origin.base_model_id), origin.base_model_id, revision=origin.base_revision, language=origin.language)
        return _named([Voice(folder.resolve().name, found.model_id), base])
    tuned = replace(_tuned(found.adapter_folder, None), processor_folder=folder / PROCESSOR_FOLDER)
    return _named([tuned, *_bases([tuned])])


def _tuned(folder: Path, model_id: str | None) -> Voice:
    origin = provenance.read(folder, Origin)
    name = folder.resolve().parent.name if folder.resolve().name == ADAPTER_FOLDER else folder.resolve().name
    if model_id is None:
        return Voice(name, origin.base_model_id, folder, revision=origin.base_revision, language=origin.language)
    _check(folder, origin, model_id)
    revision = origin.base_revision if model_id == origin.base_model_id else None
    return Voice(name, model_id, folder, revision=revision, language=origin.language)


def _check(folder: Path, origin: Origin, model_id: str) -> None:
    """Refuses adapters that obviously belong to another model; the engine compares the weights of the others when it loads them."""
    if Path(model_id).expanduser().is_dir():
        from lora.checkpoints.checkpoint import resolve

        provenance.check(folder, origin, model_id, None, resolve(model_id).sha256)
    elif all(name.startswith(_PACKAGED) for name in (model_id, origin.base_model_id)) and model_id != origin.base_model_id:
        raise CheckpointError(f"{folder}: was trained on {origin.base_model_id}, not on {model_id}; give that --model-id")


def _bases(tuned: Sequence[Voice]) -> list[Voice]:
    models = dict.fromkeys((voice.model_id, voice.revision, voice.language) for voice in tuned)
    return [Voice(_short(model_id), model_id, revision=revision, language=language) for model_id, revision, language in models]


def _short(model_id: str) -> str:
    return model_id.removeprefix(_PACKAGED).rstrip("/").rpartition("/")[2] or model_id


def _named(voices: Sequence[Voice]) -> tuple[Voice, ...]:
    """Names that two would share are told apart by number."""
    count = Counter(voice.name for voice in voices)
    seen: Counter[str] = Counter()
    named = []
    for voice in voices:
        seen[voice.name] += 1
        named.append(replace(voice, name=f"{voice.name} {seen[voice.name]}") if count[voice.name] > 1 else voice)
    return tuple(named)
