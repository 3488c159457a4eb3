"""Real speech for the voice app's tests."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lora.audio.loading import FileAudio
from lora.corpora import general
from lora.dataset.manifest import Rules, Utterance, read


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
