"""Stored encoder outputs are what the encoder gives, are found only where they fit, and never half-written."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from lora.audio.loading import AudioSettings, FileAudio
from lora.dataset.manifest import Utterance
from lora.errors import NotFiniteError
from lora.model.encoder_outputs import NAME, LiveFeatures, StoredFeatures
from lora.model.loading import Encoded, LoadedModel, load_model
from lora.system.cache import Kept

AUDIO = AudioSettings()


def files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def only_file(folder: Path) -> Path:
    (file,) = files(folder)
    return file


def assert_equal(first: Encoded, second: Encoded) -> None:
    assert (first.mask is None) == (second.mask is None)
    if first.mask is None or second.mask is None:
        torch.testing.assert_close(first.hidden, second.hidden, atol=2e-5, rtol=0)
    else:
        assert torch.equal(first.mask, second.mask)
        torch.testing.assert_close(first.hidden[first.mask], second.hidden[second.mask], atol=2e-5, rtol=0)


def test_stored_outputs_equal_live_ones(any_speech: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    chosen = [clips[17], clips[0], clips[10]]
    with torch.inference_mode():
        live = LiveFeatures(any_speech, AUDIO).batch(chosen)
    assert_equal(StoredFeatures(any_speech, AUDIO, Kept(tmp_path)).batch(chosen), live)


def test_preparing_encodes_each_recording_once_and_reports_each_utterance(
    random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path
) -> None:
    same_recording = replace(clips[0], id="again", text="other words")
    done: list[int] = []
    features = StoredFeatures(random_v1, AUDIO, Kept(tmp_path))
    features.prepare([clips[0], clips[1], same_recording], lambda: done.append(len(files(tmp_path))))
    assert done == [2, 2, 2]


def test_an_utterance_with_meta_can_be_stored(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    with_meta = replace(clips[0], meta={"channel": "telephone"})
    assert_equal(
        StoredFeatures(random_v1, AUDIO, Kept(tmp_path)).batch([with_meta]),
        StoredFeatures(random_v1, AUDIO, Kept(tmp_path)).batch([clips[0]]),
    )


def test_a_second_use_reads_what_is_stored(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    StoredFeatures(random_v1, AUDIO, Kept(tmp_path)).prepare([clips[0]])
    marked = np.full((3, 32), 7.0, dtype=np.float32)
    Kept(tmp_path).write(only_file(tmp_path), save({NAME: torch.from_numpy(marked)}))
    later = StoredFeatures(random_v1, AUDIO, Kept(tmp_path))
    later.prepare([clips[0]])
    assert later.batch([clips[0]]).hidden.tolist() == [marked.tolist()]


def test_after_a_model_is_released_another_copy_encodes_what_was_removed(
    random_speech: LoadedModel, clips: Sequence[Utterance], tmp_path: Path
) -> None:
    first, second = (load_model(random_speech.checkpoint, random_speech.device, "float32") for _ in range(2))
    features = StoredFeatures(first, AUDIO, Kept(tmp_path))
    before = features.batch([clips[0]])
    first.release()
    assert all(parameter.is_meta for parameter in first.model.parameters())
    only_file(tmp_path).unlink()
    assert_equal(features.encoded_by(second).batch([clips[0]]), before)
    assert only_file(tmp_path).is_file()


def test_what_decides_the_output_decides_the_file(
    random_v1: LoadedModel, random_v2: LoadedModel, clips: Sequence[Utterance], tmp_path: Path
) -> None:
    half = load_model(random_v1.checkpoint, random_v1.device, "bfloat16")
    other_audio = tmp_path / "other.flac"
    assert isinstance(clips[0].audio, FileAudio)
    other_audio.write_bytes(clips[0].audio.content() + b"\0")  # trailing bytes are no sound, but it is another recording
    folder = tmp_path / "features"
    for count, (speech, audio, utterance) in enumerate(
        [
            (random_v1, AUDIO, clips[0]),
            (random_v1, AUDIO, clips[1]),
            (random_v1, AUDIO, replace(clips[0], audio=FileAudio(other_audio))),
            (random_v1, AudioSettings(rms_dbfs=-26.0), clips[0]),
            (random_v2, AUDIO, clips[0]),
            (half, AUDIO, clips[0]),
        ],
        start=1,
    ):
        StoredFeatures(speech, audio, Kept(folder)).prepare([utterance])
        assert len(files(folder)) == count


def test_a_copy_of_a_recording_under_another_name_is_found(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    assert isinstance(clips[0].audio, FileAudio)
    copy = tmp_path / "renamed.flac"
    copy.write_bytes(clips[0].audio.content())
    StoredFeatures(random_v1, AUDIO, Kept(tmp_path / "features")).prepare([clips[0], replace(clips[0], audio=FileAudio(copy), id="copy")])
    assert len(files(tmp_path / "features")) == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flipped"])
def test_a_damaged_file_is_made_again_and_named(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path, damage: str) -> None:
    before = StoredFeatures(random_v1, AUDIO, Kept(tmp_path)).batch([clips[0]])
    file = only_file(tmp_path)
    whole = file.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 2]) + whole[-8:]
    file.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"not an array", "flipped": flipped}[damage])
    kept = Kept(tmp_path)
    features = StoredFeatures(random_v1, AUDIO, kept)
    features.prepare([clips[0]])
    assert_equal(features.batch([clips[0]]), before)
    assert kept.damaged == [file]
    assert file.read_bytes() == whole


def test_outputs_that_are_not_finite_are_named_and_not_kept(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    broken = load_model(random_v1.checkpoint, random_v1.device, "float32")
    broken.encoder.layer_norm.weight.data[3] = torch.inf
    features = StoredFeatures(broken, AUDIO, Kept(tmp_path))
    with pytest.raises(NotFiniteError, match=rf"^{clips[0].id}: the encoder's output is not finite \(float32 on cpu .*; "):
        features.prepare([clips[0]])
    with pytest.raises(NotFiniteError, match="is not finite"):
        features.batch([clips[0]])
    assert files(tmp_path) == []


def test_kept_outputs_that_are_not_finite_are_refused(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    StoredFeatures(random_v1, AUDIO, Kept(tmp_path)).prepare([clips[0]])
    Kept(tmp_path).write(only_file(tmp_path), save({NAME: torch.full((3, 32), torch.nan)}))
    with pytest.raises(NotFiniteError, match=rf"^{clips[0].id}: the encoder's output is not finite"):
        StoredFeatures(random_v1, AUDIO, Kept(tmp_path)).batch([clips[0]])


def test_bfloat16_outputs_come_back_bit_for_bit(random_speech: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    half = load_model(random_speech.checkpoint, random_speech.device, "bfloat16")
    with torch.inference_mode():
        live = LiveFeatures(half, AUDIO).batch([clips[0]]).hidden
    stored = StoredFeatures(half, AUDIO, Kept(tmp_path)).batch([clips[0]]).hidden
    assert stored.dtype == torch.float32
    assert torch.equal(stored, live)


def test_stored_outputs_can_be_trained_on(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    hidden = StoredFeatures(random_v1, AUDIO, Kept(tmp_path)).batch([clips[0]]).hidden
    weight = torch.ones(32, requires_grad=True)
    (hidden @ weight).sum().backward()
    assert weight.grad is not None


OTHER_PROCESS = """
import sys
from pathlib import Path
import torch
from lora.audio.loading import AudioSettings
from lora.checkpoints.checkpoint import resolve
from lora.model.encoder_outputs import StoredFeatures
from lora.system.cache import Kept
from lora.dataset.manifest import Rules, read
from lora.model.loading import load_model
torch.set_num_threads(1)
checkpoint, manifest, folder = sys.argv[1:]
features = StoredFeatures(load_model(resolve(checkpoint), torch.device("cpu"), "float32"), AudioSettings(), Kept(Path(folder)))
utterances = read(Path(manifest), Rules()).utterances[:4]
print("ready", flush=True)
while Path(folder).is_dir():
    for file in Path(folder).glob("*/*.safetensors"):
        file.unlink(missing_ok=True)
    features.prepare(utterances)
"""


def test_two_processes_may_write_the_same_files(random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path) -> None:
    """The other process removes and writes the files again and again; this one never finds half a file, and what is left is whole."""
    assert isinstance(clips[0].audio, FileAudio)
    manifest, folder = clips[0].audio.path.parents[1] / "heldout.jsonl", tmp_path / "features"
    folder.mkdir()
    command = [sys.executable, "-c", OTHER_PROCESS, str(random_v1.checkpoint.folder), str(manifest), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        features = StoredFeatures(random_v1, AUDIO, Kept(folder))
        for _ in range(10):
            features.prepare(clips[:4])
        assert other.poll() is None
        other.terminate()
    found = [file for file in files(folder) if file.suffix == ".safetensors"]
    kept = Kept(folder)
    contents = [kept.read(file) for file in found]
    assert kept.damaged == []
    assert all(load(content)[NAME].shape[1] == 32 for content in contents if content is not None)
    features.prepare(clips[:4])
    with torch.inference_mode():
        assert_equal(features.batch(clips[:4]), LiveFeatures(random_v1, AUDIO).batch(clips[:4]))
