"""The runtimes themselves, on files that we exported: what they hear, what they refuse, and how they fail."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lora.audio.loading import Waveform, duration
from lora.checkpoints.wheels import MOONSHINE_VOICE, read_member
from lora.errors import OnDeviceError
from lora.export.targets import TARGETS, write_target
from lora.model.decoder import Decoder
from lora.model.encoder import Encoder
from lora.model.greedy import transcribe
from lora.model.loading import LoadedModel
from lora.model.transcript import DecodeSettings
from lora.runtimes.engines import VOICE_OPTIONS, VOICE_STEP, sherpa_cap
from lora.runtimes.runtime import FILES, PACKAGES, RUNTIMES, Clip, RuntimeName, Transcribed, require_runtimes
from lora.runtimes.runtime import transcribe as on_device

SETTINGS = DecodeSettings(tokens_per_second=6.5)


@pytest.fixture(scope="module")
def exports(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged tiny model for every runtime, in float32."""
    place = tmp_path_factory.mktemp("exports")
    for name in RUNTIMES:
        (place / name).mkdir()
        write_target(tiny, name, "fp32", place / name)
    return place


@pytest.fixture(scope="module")
def some(waveforms: Sequence[Waveform]) -> list[Clip]:
    """Six recordings, and one cut to each of several lengths around what moonshine-voice takes at a time."""
    cut = [waveforms[0][: 32_000 + extra] for extra in (0, 1, VOICE_STEP - 1, VOICE_STEP, 511)]
    return [Clip(f"clip {number}", samples, SETTINGS.cap(duration(samples))) for number, samples in enumerate([*waveforms[:6], *cut])]


@pytest.fixture(scope="module")
def in_pytorch(tiny: LoadedModel, some: list[Clip]) -> list[str]:
    encoder, decoder = Encoder(tiny), Decoder(tiny)
    with torch.inference_mode():
        return [transcribe(decoder, encoder([clip.samples]), [duration(clip.samples)], SETTINGS)[0].text for clip in some]


@pytest.fixture(scope="module")
def heard(exports: Path, some: list[Clip]) -> dict[RuntimeName, Transcribed]:
    return {name: on_device(name, exports / name, "tiny", some) for name in RUNTIMES}


def test_every_target_but_the_merged_one_has_its_runtime() -> None:
    assert {*RUNTIMES, "merged"} == set(TARGETS)


@pytest.mark.parametrize("name", RUNTIMES)
def test_float32_says_what_pytorch_says(name: RuntimeName, heard: dict[RuntimeName, Transcribed], in_pytorch: list[str]) -> None:
    assert [one.text for one in heard[name].heard] == in_pytorch
    assert any(len(text.split()) > 5 for text in in_pytorch)


@pytest.mark.parametrize("name", RUNTIMES)
def test_times_and_memory_are_reported(name: RuntimeName, heard: dict[RuntimeName, Transcribed], exports: Path) -> None:
    found = heard[name]
    assert all(one.seconds > 0.001 for one in found.heard)
    assert found.load_s > 0.001
    size = sum(file.stat().st_size for file in (exports / name).iterdir())
    assert size / 2 < found.peak_bytes < 5 * size + 500e6, "of its own process, which holds no PyTorch"


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_clip_stops_at_its_cap(name: RuntimeName, exports: Path, waveforms: Sequence[Waveform]) -> None:
    """Whatever the runtime's own rule is. Clips of other caps go before and behind."""
    caps = [3, 40, 5, 8, 40]
    clips = [Clip(f"cap {cap}", waveforms[0], cap) for cap in caps]
    found = on_device(name, exports / name, "tiny", clips).heard
    whole = found[1].text
    assert found[4].text == whole
    for cap, one in zip(caps, found, strict=True):
        assert whole.startswith(one.text)
        assert one.capped in (None, cap < 40)
    lengths = [len(one.text) for one in found]
    assert lengths[0] < lengths[2] < lengths[3] < lengths[1]


@pytest.mark.parametrize("name", RUNTIMES)
def test_silence_and_noise_do_not_stop_it(name: RuntimeName, exports: Path) -> None:
    noise = (0.01 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)
    clips = [Clip("silence", np.zeros(32_000, np.float32), 21), Clip("noise", noise, 21), Clip("shortest", noise[:1600], 8)]
    assert all(len(one.text.split()) <= 21 for one in on_device(name, exports / name, "tiny", clips).heard)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_clip_that_is_too_short_is_named(name: RuntimeName, exports: Path, some: list[Clip]) -> None:
    with pytest.raises(OnDeviceError, match=r"^stub: lasts 0\.037 s; Moonshine takes 0\.1 s and more$"):
        on_device(name, exports / name, "tiny", [*some[:1], Clip("stub", some[0].samples[:600], 8)])


@pytest.mark.parametrize("name", ["moonshine-voice", "onnx"])
def test_a_clip_on_which_the_runtime_fails_is_named(name: RuntimeName, exports: Path, some: list[Clip]) -> None:
    """Told that tiny is base, they load it, and fail at the first clip."""
    with pytest.raises(OnDeviceError, match=rf"^clip \d+: {name} fails on this clip \(.+\); leave it out or cut it at pauses$"):
        on_device(name, exports / name, "base", some[:2])


def test_what_sherpa_passes_over_in_silence_is_an_error(exports: Path, some: list[Clip], tmp_path: Path) -> None:
    """It prints that it failed and answers with nothing, as if it had heard silence."""
    for file in (exports / "sherpa-onnx").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "encoder_model.onnx").unlink()
    (tmp_path / "encoder_model.onnx").symlink_to(exports / "sherpa-onnx" / "decoder_model_merged.onnx")
    with pytest.raises(OnDeviceError, match=r"sherpa-onnx (fails on this clip|does not load it) \(.+\)"):
        on_device("sherpa-onnx", tmp_path, "tiny", some[:1])


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_folder_that_lacks_a_file_is_refused(name: RuntimeName, some: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(OnDeviceError, match=rf"holds no {FILES[name][0]}, which {name} needs; export it again with --to {name}$"):
        on_device(name, tmp_path, "tiny", some)


@pytest.mark.parametrize("name", RUNTIMES)
def test_files_that_are_damaged_are_one_error(name: RuntimeName, exports: Path, some: list[Clip], tmp_path: Path) -> None:
    """Also where the runtime ends its process without a word that Python hears."""
    for file in FILES[name]:
        place = tmp_path / file
        place.mkdir()
        for other in FILES[name]:
            (place / other).write_bytes(b"damaged " * 200 if other == file else (exports / name / other).read_bytes())
        with pytest.raises(OnDeviceError) as refused:
            on_device(name, place, "tiny", some[:1])
        assert name in str(refused.value)


def test_the_published_files_run_as_ours_do(tmp_path: Path, some: list[Clip], heard: dict[RuntimeName, Transcribed]) -> None:
    for file in FILES["moonshine-voice"]:
        (tmp_path / file).write_bytes(read_member(MOONSHINE_VOICE, f"moonshine_voice/assets/tiny-en/{file}"))
    published = [one.text for one in on_device("moonshine-voice", tmp_path, "tiny", some[:6]).heard]
    ours = [one.text for one in heard["moonshine-voice"].heard[:6]]
    same = sum(a.split()[:3] == b.split()[:3] for a, b in zip(published, ours, strict=True))
    assert same >= 4, (published, ours)


@pytest.mark.usefixtures("moonshine_voice")
def test_moonshine_voice_hears_the_whole_clip_only_with_our_step(exports: Path) -> None:
    """Why `VOICE_STEP` is there: with its own step the runtime leaves up to 511 samples out."""
    from moonshine_voice import ModelArch, Transcriber

    samples = [0.1] * (32_000 + 511 - 32_000 % 512)
    heard = {}
    for step in (512, VOICE_STEP):
        transcriber = Transcriber(str(exports / "moonshine-voice"), ModelArch.TINY, options=VOICE_OPTIONS | {"vad_hop_size": step})
        lines = transcriber.transcribe_without_streaming(samples, 16_000).lines
        heard[step] = round(16_000 * sum(line.duration for line in lines))
    assert len(samples) - heard[512] == 511
    assert len(samples) - heard[VOICE_STEP] < VOICE_STEP


@pytest.mark.parametrize("name", ["onnx", "sherpa-onnx"])
def test_a_missing_package_names_the_extra(name: RuntimeName, tmp_path: Path) -> None:
    """In a process whose path holds every installed package but this one."""
    import lora

    module, distribution = PACKAGES[name]
    site = Path(np.__file__).parents[1]
    for entry in site.iterdir():
        if entry.name.partition(".")[0] != module and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    paths = os.pathsep.join([str(Path(lora.__file__).parents[1]), str(tmp_path)])
    code = f"from lora.console import run; from lora.main import _main; raise SystemExit(run(lambda: _main({_arguments(name)!r})))"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=300)
    expected = f"error: {name}: the package {distribution} is not installed; install the extra (pip install 'moonshine-lora[export]')\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_moonshine_voice_that_cannot_be_fetched_is_one_line(tmp_path: Path) -> None:
    settings = {"MOONSHINE_LORA_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    command = [sys.executable, "-m", "lora.main", *_arguments("moonshine-voice")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: moonshine-voice==0.1.5: could not be installed into ")
    assert len(done.stderr.splitlines()) == 1
    assert [path.suffix for path in (tmp_path / "cache" / "runtimes").iterdir()] == [".lock"]


def test_another_moonshine_voice_than_ours_is_not_installed(tmp_path: Path) -> None:
    """A package of that name and version with other content: from a mirror, or from whoever took over the account."""
    place = tmp_path / "mirror"
    place.mkdir()
    metadata = "Metadata-Version: 2.1\nName: moonshine-voice\nVersion: 0.1.5\n"
    wheel = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(place / "moonshine_voice-0.1.5-py3-none-any.whl", "w") as archive:
        archive.writestr("moonshine_voice/__init__.py", "raise SystemExit('ran')")
        for name, content in (("METADATA", metadata), ("WHEEL", wheel), ("RECORD", "")):
            archive.writestr(f"moonshine_voice-0.1.5.dist-info/{name}", content)
    settings = {
        **{"MOONSHINE_LORA_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull},
        "PIP_FIND_LINKS": str(place),
    }
    command = [sys.executable, "-m", "lora.main", *_arguments("moonshine-voice")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert done.stderr.startswith("error: moonshine-voice==0.1.5: could not be installed into ")
    assert "HASHES" in done.stderr
    assert [path.suffix for path in (tmp_path / "cache" / "runtimes").iterdir()] == [".lock"]


def test_its_command_does_not_take_the_voice_apps_place() -> None:
    script = Path(sys.executable).parent / "moonshine"
    assert "lora_cli" in script.read_text()


def _arguments(name: str) -> list[str]:
    return ["transcribe", "--runtime", name, "--export-dir", "none", "--audio", "none.wav"]


def test_installed_runtimes_are_not_complained_of() -> None:
    require_runtimes(RUNTIMES)


def hum(length_s: float) -> Waveform:
    """Mains hum, in which the model hears notes: a character that it spells in bytes."""
    time_s = np.arange(int(16_000 * length_s)) / 16_000
    return (0.2 * sum(np.sin(2 * np.pi * tone_hz * time_s) for tone_hz in (50, 100, 150))).astype(np.float32)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_clip_that_ends_inside_a_character_costs_no_other_its_text(
    name: RuntimeName, exports: Path, some: list[Clip], heard: dict[RuntimeName, Transcribed]
) -> None:
    found = on_device(name, exports / name, "tiny", [some[0], Clip("hum", hum(3.0), 27), some[1]]).heard
    assert [found[0].text, found[2].text] == [one.text for one in heard[name].heard[:2]]
    text = found[1].text
    if name == "moonshine-voice":
        text = text.rstrip("?")  # its own sign, made in C++, for each byte of the character that is not finished
    assert set(text) == {"♪"}, "whole notes only"


@pytest.mark.parametrize("length_s", [1.0, 1.05, 1.3, 2.0, 3.0, 5.0])
def test_sherpa_tells_where_it_stopped_by_itself(exports: Path, length_s: float) -> None:
    """Its own cap of 15 tokens a second is below ours for a language of 13 and short clips."""
    samples = hum(length_s)
    cap = DecodeSettings(tokens_per_second=50.0).cap(length_s)
    assert sherpa_cap(len(samples)) < cap
    assert on_device("sherpa-onnx", exports / "sherpa-onnx", "tiny", [Clip("hum", samples, cap)]).heard[0].capped


def test_sherpa_says_of_no_clip_that_ended_that_it_was_cut(heard: dict[RuntimeName, Transcribed]) -> None:
    assert not any(one.capped for one in heard["sherpa-onnx"].heard[:6])
