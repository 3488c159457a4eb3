"""Puts a finished run on the model hub: adapter, processor, card and reports, in one commit."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lora.checkpoints import provenance
from lora.checkpoints.provenance import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, CHECKPOINT_SETTINGS, CHECKPOINT_WEIGHTS, Origin
from lora.errors import PublishError
from lora.report.card import CARD_FILE, write_card
from lora.report.html import write_html
from lora.report.markdown import write_report
from lora.runs.record import RunRecord, counting_errors, read, result_folder
from lora.system.artifacts import CHECKPOINT_FOLDER, HTML_FILE, MARKDOWN_FILE, PROCESSOR_FOLDER
from lora.system.files import sha256_file


def folders(record: RunRecord) -> tuple[str, ...]:
    """Whose files lie side by side on the hub, so that peft and transformers find them by the repository's name."""
    made = result_folder(record.config.adapter)
    return (made,) if made == CHECKPOINT_FOLDER else (made, PROCESSOR_FOLDER)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file and its name on the hub."""

    name: str
    file: Path
    size: int


@contextmanager
def gathered(folder: Path, *, allow_rejected: bool) -> Iterator[tuple[Upload, ...]]:
    """What is uploaded of a run. Card and reports are made again, the page without sound: a voice is not published by accident.

    Raises `PublishError` for a run that is not complete, was not accepted, has lost its adapter or has another one in its place,
    `CheckpointError` for one that is damaged, and `RunFolderError` for a record whose counts give no rate.
    """
    record = read(folder)
    _require_publishable(folder, record, allow_rejected)
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-push-") as name:
        made = Path(name)
        with counting_errors(folder):
            write_card(record, made / CARD_FILE)
            write_report(record, made / MARKDOWN_FILE)
            write_html(record, made / HTML_FILE, None)
        own = [file for part in folders(record) for file in sorted((folder / part).iterdir()) if file.is_file() and file.name != CARD_FILE]
        yield tuple(Upload(file.name, file, file.stat().st_size) for file in (*own, *sorted(made.iterdir())))


def require_access(repo_id: str) -> None:
    """Raises `PublishError` unless the hub can be reached, knows the user's token and allows the name: before the work, not after it."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with _hub_errors(repo_id):
        validate_repo_id(repo_id)
        HfApi().whoami()


def push(uploads: tuple[Upload, ...], repo_id: str, *, private: bool) -> str:
    """Makes the repository if there is none, uploads in one commit, and returns the commit's address.

    The hub's own settings hold: `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`. Raises `PublishError` with what the hub says.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _hub_errors(repo_id):
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=upload.name, path_or_fileobj=upload.file) for upload in uploads]
        return str(api.create_commit(repo_id, operations, commit_message="Upload a tuned Moonshine").commit_url)


def _require_publishable(folder: Path, record: RunRecord, allow_rejected: bool) -> None:
    if record.status != "completed" or record.verdict is None:
        raise PublishError(f"{folder}: the run is not complete ({record.status}); only a completed run can be published")
    if not record.verdict.accepted and not allow_rejected:
        raise PublishError(f"{folder}: {record.verdict.sentence}; pass --allow-rejected to publish it anyway")
    for part in folders(record):
        if not (folder / part).is_dir():
            raise PublishError(f"{folder}: holds no {part}/; run the experiment again")
    made = folder / result_folder(record.config.adapter)
    full = record.config.adapter.method == "full"
    files = (CHECKPOINT_WEIGHTS, CHECKPOINT_SETTINGS) if full else (ADAPTER_WEIGHTS, ADAPTER_SETTINGS)
    provenance.read_sealed(made, Origin, *files)
    if record.adapter is None or sha256_file(made / files[0]) != record.adapter.sha256:
        raise PublishError(f"{made / files[0]}: is not what the run trained and scored; run the experiment again")


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise PublishError(f"{repo_id}: HF_HUB_OFFLINE is set; unset it to upload, or pass --dry-run") from error
    except errors.LocalTokenNotFoundError as error:
        raise PublishError(
            f"{repo_id}: there is no token for the hub; set HF_TOKEN to one that may write there, or run hf auth login"
        ) from error
    except errors.HFValidationError as error:
        raise PublishError(f"{repo_id}: not a name the model hub allows; give --repo-id owner/name") from error
    except errors.HfHubHTTPError as error:
        hint = "; set HF_TOKEN to a token that may write there" if error.response.status_code in (401, 403) else ""
        raise PublishError(f"{repo_id}: {constants.ENDPOINT} refuses ({' '.join(str(error).split())}){hint}") from error
    except json.JSONDecodeError as error:
        raise PublishError(
            f"{repo_id}: {constants.ENDPOINT} answers with something else than a model hub does; check HF_ENDPOINT"
        ) from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # httpx's, or httpx2's: what the client lets through
        raise PublishError(f"{repo_id}: {constants.ENDPOINT} cannot be reached ({' '.join(str(error).split())})") from error
