"""Audio that lies elsewhere is read only where the user allows it, also when a link leads there."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.dataset.manifest import Rules, read
from lora.errors import ManifestError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A manifest's folder with a clip of its own, beside a folder with another one."""
    for folder in ("elsewhere", "set/audio"):
        (tmp_path / folder).mkdir(parents=True)
        soundfile.write(tmp_path / folder / "a.wav", np.zeros(8000), 16_000)
    return tmp_path / "set"


def manifest(place: Path, audio: str) -> Path:
    (place / "m.jsonl").write_text(f'{{"audio": "{audio}", "text": "yes"}}\n')
    return place / "m.jsonl"


def link_to_a_file(place: Path) -> str:
    (place / "b.wav").symlink_to(place.parent / "elsewhere" / "a.wav")
    return "b.wav"


def relative_link(place: Path) -> str:
    (place / "b.wav").symlink_to("../elsewhere/a.wav")
    return "b.wav"


def link_to_a_folder(place: Path) -> str:
    (place / "more").symlink_to(place.parent / "elsewhere")
    return "more/a.wav"


def link_of_a_link(place: Path) -> str:
    (place / "more").symlink_to(place.parent / "elsewhere")
    (place / "b.wav").symlink_to("more/a.wav")
    return "b.wav"


@pytest.mark.parametrize("make", [link_to_a_file, relative_link, link_to_a_folder, link_of_a_link])
def test_a_link_that_leaves_the_folder_needs_the_flag(place: Path, make) -> None:  # type: ignore[no-untyped-def]
    file = manifest(place, make(place))
    with pytest.raises(ManifestError, match="lies outside the manifest's folder; move it or pass --allow-outside-paths"):
        read(file, Rules())
    assert len(read(file, Rules(allow_outside=True))) == 1


def test_links_inside_and_above_the_folder_are_nobody_s_business(place: Path, tmp_path: Path) -> None:
    (place / "b.wav").symlink_to("audio/a.wav")
    (place / "more").symlink_to("audio")
    (tmp_path / "way").symlink_to(place)
    for audio in ("b.wav", "more/a.wav", "audio/a.wav"):
        assert len(read(manifest(place, audio), Rules())) == 1
        assert len(read(tmp_path / "way" / "m.jsonl", Rules())) == 1
