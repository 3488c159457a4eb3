"""Real speech for the voice app's tests."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lora.audio.loading import FileAudio, Waveform
from lora.corpora import general
from lora.dataset.manifest import Rules, Utterance, read
from lora.units import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from lora.live import Ear


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The app reads its config file and replacements from an empty folder, whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Utterance]:
    """Utterances of 1.8 to 6 s with their transcripts, from the recordings of the moonshine-voice wheel."""
    return list(read(general.prepare(tmp_path_factory.mktemp("speech")).heldout, Rules()))


@pytest.fixture(scope="session")
def clip(speech: Sequence[Utterance]) -> Path:
    """A recording of some seconds."""
    audio = speech[0].audio
    assert isinstance(audio, FileAudio)
    return audio.path


@pytest.fixture(scope="session")
def said() -> Waveform:
    """12 s of real speech."""
    return general.waveform(general.HELDOUT[0])[14_400 : 14_400 + 12 * SAMPLE_RATE_HZ]


@pytest.fixture(scope="module")
def ear() -> "Ear":
    """The packaged model in this process."""
    import torch

    from lora.live import Ear
    from lora.transcribe import Request, open_transcriber

    torch.set_num_threads(1)
    return Ear(open_transcriber(Request("packaged:moonshine-tiny", None, None, None, "cpu", "float32", 1, None)))
