"""Every way a run can be refused. Each message says what is wrong, where, and what to do about it."""

import re
from dataclasses import dataclass


class LoraError(Exception):
    """An error that the user can fix. The command line prints its message on one line and exits with `exit_code`.

    Its text never holds the password of an address, whoever has put it there.
    """

    exit_code = 2

    def __str__(self) -> str:
        return re.sub(r"(\w+://)[^/\s@]+@", r"\1***@", super().__str__())


class ConfigError(LoraError):
    """A setting is missing, misspelt, of the wrong type or contradicts another one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one line of a manifest."""

    line: int
    field: str
    message: str


class ManifestError(LoraError):
    """A manifest is unreadable or breaks the schema. The message names the first bad lines, `problems` holds all of them."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class TermsError(LoraError):
    """A list of terms is empty, unreadable, has duplicates, or holds terms that cannot be spoken or written."""


class PromptsError(LoraError):
    """Sentences to read aloud cannot be read, or are not what is recorded into a folder."""


class SynthesisError(LoraError):
    """A voice is missing, fails, or produces no speech."""


class AudioError(LoraError):
    """Audio is missing, unreadable, empty, not finite, silent or too long."""


class TooLongError(AudioError):
    """Audio is longer than the limit. `length_s` is None, and `lasts` vague, if no header says: it is decoded up to the limit only."""

    def __init__(self, name: str, length_s: float | None, limit_s: float) -> None:
        self.length_s = length_s
        self.lasts = f"more than {limit_s:g} s" if length_s is None else f"{length_s:.1f} s"
        super().__init__(f"{name}: lasts {self.lasts}, over the limit of {limit_s:g} s; cut it at pauses")


class AlignmentError(LoraError):
    """A script and a recording cannot be aligned: one of them is empty, or they do not belong together."""


class CheckpointError(LoraError):
    """A checkpoint or adapter cannot be fetched, does not load, or they do not belong together."""


class ScoringError(LoraError):
    """There is nothing to score, or references and hypotheses do not match up."""


class ExportError(LoraError):
    """An export cannot be made from this checkpoint."""


class OnDeviceError(LoraError):
    """An on-device runtime is not installed, does not load an export, or fails on a clip."""


class ProofError(LoraError):
    """An export was not shown to be the tuned model: like a run that the gate rejects."""

    exit_code = 3


class FetchError(LoraError):
    """A download failed."""


class RunFolderError(LoraError):
    """The output folder holds another run, or cannot be written."""


class PublishError(LoraError):
    """A run may not be published, or the hub refuses it."""


class TrainingError(LoraError):
    """Training cannot start or continue: the loss is not finite, or the baseline loss shows a broken label path."""


class DivergedError(TrainingError):
    """The loss was finite and no longer is: the settings are at fault."""


class SweepError(LoraError):
    """A study of settings cannot be started, joined or resumed."""


class NotFiniteError(LoraError):
    """A computation gave NaN or infinity. `remedy` says what to do about it, if known."""

    def __init__(self, fault: str, remedy: str = "") -> None:
        super().__init__(f"{fault}; {remedy}" if remedy else fault)
        self.fault = fault


class StoppedError(LoraError):
    """Training was asked to stop and has written a checkpoint."""


class WorkerError(LoraError):
    """A process that did a part of the work has ended; says how."""


class PeerError(LoraError):
    """Another process of the same run has ended or does not answer."""


class ServeError(LoraError):
    """A server cannot start: its port is taken, its key can be read by others, or a package is not installed."""


class DictationError(LoraError):
    """The dictation service cannot start, is not running, or refuses a command."""


class DeliveryError(LoraError):
    """Dictated text could not be put where it belongs."""


class RequestError(LoraError):
    """What a client of the server asks for is refused. `status` is HTTP's; `param` names the field, `code` is for programs."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        """Five parameters besides the text: an answer has so many parts."""
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after_s = status, param, code, retry_after_s
