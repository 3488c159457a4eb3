"""Where weights come from: the model hub, a local folder or packaged runtime weights. Always ends in a checked local folder.

The form of the model id decides, with no fallback from one source to another.
"""

import difflib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lora.checkpoints.model_folder import require_no_code, require_no_pickle, require_sizes
from lora.checkpoints.packaged import PACKAGED, packaged_checkpoint
from lora.errors import CheckpointError, ConfigError
from lora.language import LANGUAGES, OTHER, Language, code, traits
from lora.system.destination import writing_errors
from lora.system.documents import read_json
from lora.system.files import sha256_bytes, sha256_file

Kind = Literal["hub", "local", "packaged"]

MODEL_TYPES: Final = ("moonshine", "moonshine_streaming")

_PREFIX: Final = "packaged:"
_FORMS: Final = (
    "give an `owner/name` on the model hub, a local folder (`./folder`, `/folder`, `~/folder`), "
    f"or {' or '.join(f'`{_PREFIX}{name}`' for name in PACKAGED)}"
)
_HUB_FILES: Final = ["*.json", "tokenizer*", "vocab*", "merges.txt"]
_NOT_HUB_FILES: Final = ["*/*"]
_PROCESSOR_FILES: Final = ("processor_config.json", "preprocessor_config.json")
_OFFLINE_CHOICE: Final = f"`{_PREFIX}moonshine-tiny` or a local folder need no hub"


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint on disk.

    `model_id` is what the user gave, `revision` the hub commit the files are from (None elsewhere), `sha256` the hash of the one weights
    file, or of the lines "hash  name" of its shards in the order of their names.
    """

    model_id: str
    kind: Kind
    folder: Path
    revision: str | None
    sha256: str


def resolve(model_id: str, revision: str | None = None) -> Checkpoint:
    """Returns the checkpoint `model_id` names, fetching or converting it first where needed.

    `packaged:NAME` is packaged runtime weights; what starts with `.`, `/` or `~`, or names an existing folder, is local; `owner/name` is on
    the model hub, at `revision` (branch, tag or commit; the main branch by default). The hub's own settings hold: `HF_TOKEN`,
    `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_HOME`.

    Raises:
        CheckpointError: the id has none of these forms, the source refuses, or the files are no usable Moonshine checkpoint.
        FetchError: packaged weights cannot be downloaded.
    """
    kind = _kind(model_id)
    if revision is not None and kind != "hub":
        raise CheckpointError(f"{model_id}: only checkpoints on the model hub have revisions; leave out {revision!r}")
    if kind == "packaged":
        folder, sha256 = packaged_checkpoint(model_id.removeprefix(_PREFIX))
        _check(folder)
        return Checkpoint(model_id, kind, folder, None, sha256)
    folder = Path(model_id).expanduser().resolve() if kind == "local" else _snapshot(model_id, revision)
    weights = _check(folder)
    # The hub cache names a snapshot's folder after its commit.
    return Checkpoint(model_id, kind, folder, folder.name if kind == "hub" else None, _hash(weights))


def require_language(checkpoint: Checkpoint, language: Language) -> None:
    """Raises `ConfigError` when the checkpoint says that it is for another language.

    Packaged weights are English. Elsewhere `language` in config.json says so, or a name as the published checkpoints have it, such as
    `moonshine-tiny-ja`; any other name says nothing.
    """
    named = _language(checkpoint)
    if named is None or named == code(language):
        return
    its = named if named in LANGUAGES else OTHER + named
    raise ConfigError(
        f"--language {language}: {checkpoint.model_id} is for {traits(its).name}; give --language {its}, or another --model-id"
    )


def _language(checkpoint: Checkpoint) -> str | None:
    if checkpoint.kind == "packaged":
        return "en"
    stated = read_json(checkpoint.folder / "config.json", dict[str, Any], CheckpointError).get("language")
    if stated is not None:
        return str(stated)
    name = checkpoint.model_id.rstrip("/").rpartition("/")[2].lower()
    found = re.fullmatch(r"moonshine-(?:streaming-)?(?:tiny|base|small|medium)-([a-z]{2})", name)
    return found[1] if found else None


def _kind(model_id: str) -> Kind:
    if model_id.startswith(_PREFIX):
        if model_id.removeprefix(_PREFIX) not in PACKAGED:
            raise CheckpointError(f"{model_id}: no such packaged model{_did_you_mean(model_id)}; {_FORMS}")
        return "packaged"
    if model_id.startswith((".", "/", "~")) or Path(model_id).is_absolute() or (model_id and Path(model_id).is_dir()):
        return "local"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model_id, re.ASCII):
        return "hub"
    raise CheckpointError(f"{model_id!r}: not a model id{_did_you_mean(model_id)}; {_FORMS}")


def _did_you_mean(model_id: str) -> str:
    """A suggestion for a misspelt packaged name, with or without the prefix or `moonshine-`; empty if nothing is near."""
    spellings = {spelling: name for name in PACKAGED for spelling in (name, name.removeprefix("moonshine-"))}
    wanted = model_id.lower().replace("_", "-").rpartition(":")[2].strip()
    close = difflib.get_close_matches(wanted, spellings, n=1, cutoff=0.6)
    return f" (did you mean `{_PREFIX}{spellings[close[0]]}`?)" if close else ""


# --- the model hub ---------------------------------------------------------------------------------------------------------------------


def _snapshot(model_id: str, revision: str | None) -> Path:
    """Downloads what a checkpoint needs, from the top folder of the repository only, into the hub's own cache.

    The small files come first: a model of another kind is refused before gigabytes of its weights are downloaded.
    """
    from huggingface_hub import snapshot_download

    with _hub_errors(model_id, revision):
        folder = Path(snapshot_download(model_id, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_NOT_HUB_FILES))
    _check_config(folder)
    require_no_code(folder)
    _check_processor(folder)
    with _hub_errors(model_id, revision):  # the commit, not the branch: it may have moved on meanwhile
        return Path(snapshot_download(model_id, revision=folder.name, allow_patterns=["*.safetensors"], ignore_patterns=_NOT_HUB_FILES))


@contextmanager
def _hub_errors(model_id: str, revision: str | None) -> Iterator[None]:
    """Turns each way the hub refuses into one line that says what to do."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{model_id}"
    at = f" at revision {revision!r}" if revision else ""
    try:
        with writing_errors(Path(constants.HF_HUB_CACHE)):
            yield
    except errors.GatedRepoError as error:
        raise CheckpointError(f"{model_id}: gated; accept its terms at {page}, then set HF_TOKEN to a token of that account") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(f"{model_id}: not found at {page}; check the spelling, and for a private one set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{model_id}: no revision {revision!r}; {page}/commits lists what there is") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{model_id}: not a name the model hub allows ({_one_line(error)}); {_FORMS}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{model_id}: {constants.ENDPOINT} answers with something else than a model hub does, such as a page to sign in; "
            f"check HF_ENDPOINT and the network; {_OFFLINE_CHOICE}"
        ) from error
    # The first is what the hub library makes of most failures; its HTTP library's base class (httpx or httpx2) is what it lets through.
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise CheckpointError(f"{model_id}{at}: {_why_no_answer(error, page)}; {_OFFLINE_CHOICE}") from error


def _why_no_answer(error: BaseException, page: str) -> str:
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and the hub's cache has no complete copy; unset it once to download"
    cause = error if isinstance(error, errors.HfHubHTTPError) else error.__cause__ or error
    if isinstance(cause, errors.HfHubHTTPError):
        return f"{page} answers with an error ({_one_line(cause)}); try again later"
    return f"{constants.ENDPOINT} cannot be reached ({_one_line(cause)}) and the hub's cache has no complete copy; check the network"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# --- checks ----------------------------------------------------------------------------------------------------------------------------


def _check(folder: Path) -> list[Path]:
    """Refuses a folder that is no usable Moonshine checkpoint; returns its weights files in the order of their names."""
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.is_file() else "no such folder"
        raise CheckpointError(f"{folder}: {found}; {_FORMS}")
    _check_config(folder)
    require_no_code(folder)
    weights = _weights(folder)
    require_sizes(folder, {name: shape for path in weights for name, shape in _check_weights(path).items()})
    _check_processor(folder)
    return weights


def _check_config(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file() and (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{folder}: this is a LoRA adapter, not a checkpoint; give the base model it was trained on")
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; give the folder `save_pretrained` wrote, or download the checkpoint again")
    config: dict[str, Any] = read_json(path, dict[str, Any], CheckpointError)
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(f"{path}: model_type is {model_type!r}, supported are {' and '.join(MODEL_TYPES)}; choose another one")
    if config.get("quantization_config") is not None:
        raise CheckpointError(f"{path}: holds quantization_config, and quantised weights cannot be trained; take the float checkpoint")


def _weights(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return _shards(folder, index)
    for path in sorted(folder.iterdir()):
        require_no_pickle(path)
    others = sorted(path.name for pattern in ("*.h5", "*.onnx", "*.ort", "*.msgpack", "*.gguf") for path in folder.glob(pattern))
    hint = f"; it has {', '.join(others)}, save it with `save_pretrained` first" if others else "; copy or download the checkpoint again"
    raise CheckpointError(f"{folder}: no weights, neither {single.name} nor {index.name}{hint}")


def _shards(folder: Path, index: Path) -> list[Path]:
    names = read_json(index, dict[str, Any], CheckpointError).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index}: no weight_map of parameter to file; copy or download the checkpoint again")
    shards = [folder / name for name in sorted(set(names.values()))]
    missing = [path.name for path in shards if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder}: weights files named in {index.name} are missing: {', '.join(missing)}; copy them there")
    return shards


def _check_weights(path: Path) -> dict[str, list[int]]:
    """Reads names and shapes, which also shows whether the file is whole: a truncated copy is refused here, not in the middle of a run."""
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as stream:
        if stream.read(64).startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    try:
        with safe_open(path, framework="np") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118  # no dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({_one_line(error)}); copy or download it again") from error


def _check_processor(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder}: tokenizer.json is missing; copy the tokenizer files of the checkpoint beside the weights")
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        raise CheckpointError(f"{folder}: {' or '.join(_PROCESSOR_FILES)} is missing; copy the processor files of the checkpoint there")


def _hash(weights: list[Path]) -> str:
    if len(weights) == 1:
        return sha256_file(weights[0])
    return sha256_bytes(*(f"{sha256_file(path)}  {path.name}\n".encode() for path in weights))
