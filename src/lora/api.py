"""What `import lora` offers to Python programs: a loaded model that transcribes files, and a run from settings."""

from collections.abc import Sequence
from pathlib import Path

from lora.config import build, dotted
from lora.display import Display
from lora.language import Language
from lora.longform.command import LONGEST_S
from lora.longform.recording import transcribe_files
from lora.pipeline import stages
from lora.presets import config_file
from lora.runs.record import RunRecord
from lora.system.artifacts import EXPERIMENT_METRICS_FILE
from lora.system.device import Device, Precision
from lora.system.process_settings import process_settings
from lora.transcribe import Choice, Request, Transcriber, Transcription, named, open_transcriber

BATCH_SIZE = 32


class Model:
    """A loaded model, its adapter folded in."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber

    def transcribe(self, *files: str | Path, word_times: bool = False) -> Sequence[Transcription]:
        """A transcription for each recording, of any length and any kind of file that `moonshine-lora transcribe` reads.

        With `word_times` each has its words with start and end in seconds. Raises `AudioError` for a file that cannot be used.
        """
        recordings = named([Path(file) for file in files], Choice())
        return transcribe_files(self._transcriber, recordings, LONGEST_S, timed=word_times).utterances


def load(
    model: str,
    adapter: str | Path | None = None,
    *,
    device: Device = "auto",
    precision: Precision = "float32",
    language: Language | None = None,
) -> Model:
    """Loads a model (`packaged:moonshine-tiny`, a hub id, or a folder) and, where given, a run's `lora_adapter`.

    Without `language` the model speaks that of its adapter, or English. Raises `CheckpointError` and `ConfigError` as the command does.
    """
    folder = Path(adapter) if adapter is not None else None
    request = Request(model, None, folder, None, device, precision, BATCH_SIZE, None, language)
    return Model(open_transcriber(request))


@process_settings()
def experiment(config: str | Path, **settings: object) -> RunRecord:
    """Baseline, training, tuned scores and verdict, as `moonshine-lora experiment` does; the artifacts are in the output folder.

    `config` is a TOML file or the name of a preset, `settings` are those of the command line under their names in TOML:
    `experiment("domain", train_manifest="train.jsonl", epochs=3)`. Raises `LoraError` if the run is refused.
    """
    given = {dotted(name): str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return stages.experiment(build(given, config_file(str(config))), EXPERIMENT_METRICS_FILE, Display(quiet=True))
