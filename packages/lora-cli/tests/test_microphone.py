"""A real sound server with a virtual microphone, and what is told of microphones that are not well."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr
from lora_cli.sound.microphone import CLIPPING, MUTED_S, _Health, _Resampler
from rig import VirtualMicrophone, virtual_microphone

from lora.audio.loading import AudioSettings, Waveform, read_file
from lora.units import SAMPLE_RATE_HZ

HEAR = Path(__file__).parent / "hear.py"


@pytest.fixture
def microphone() -> Iterator[VirtualMicrophone]:
    with virtual_microphone() as found:
        yield found


class Heard:
    """What a process heard through the virtual microphone."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as found:
            self.samples: Waveform = found["samples"]
            self.peaks: list[float] = found["peaks"].tolist()
            self.problems: list[str] = json.loads(str(found["problems"]))
            self.overflows = int(found["overflows"])


def hearing(microphone: VirtualMicrophone, seconds: float, output: Path, *options: str) -> subprocess.Popen[str]:
    """A process that hears; it is ready when this returns."""
    command = [sys.executable, str(HEAR), str(seconds), str(output), *options]
    process = subprocess.Popen(command, env=microphone.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_what_is_spoken_is_heard_whole(microphone: VirtualMicrophone, clip: Path, tmp_path: Path) -> None:
    said = read_file(clip, AudioSettings())
    process = hearing(microphone, len(said) / SAMPLE_RATE_HZ + 1.5, tmp_path / "heard.npz")
    microphone.play(clip)
    assert process.wait(30) == 0
    heard = Heard(tmp_path / "heard.npz")
    length = len(said) + len(heard.samples)
    at = int(np.fft.irfft(np.fft.rfft(heard.samples, length) * np.conj(np.fft.rfft(said, length)), length).argmax())
    aligned = heard.samples[at : at + len(said)]
    assert len(aligned) == len(said), "the end is missing"
    assert np.corrcoef(aligned, said)[0, 1] > 0.999
    assert heard.overflows == 0
    assert max(heard.peaks) == pytest.approx(np.abs(said).max(), abs=0.02)


def test_a_microphone_that_is_unplugged_is_reported_and_what_was_heard_stays(
    microphone: VirtualMicrophone, clip: Path, tmp_path: Path
) -> None:
    process = hearing(microphone, 6, tmp_path / "heard.npz")
    microphone.play(clip)
    microphone.unplug()
    assert process.wait(30) == 0
    heard = Heard(tmp_path / "heard.npz")
    assert len(heard.samples) >= len(read_file(clip, AudioSettings()))
    assert any("gives no sound any more" in problem for problem in heard.problems)


def test_digital_silence_is_reported_as_muted(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    assert hearing(microphone, MUTED_S + 1, tmp_path / "heard.npz").wait(30) == 0
    assert any("muted" in problem for problem in Heard(tmp_path / "heard.npz").problems)


def test_silence_that_is_not_recorded_is_not_told(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    assert hearing(microphone, MUTED_S + 1, tmp_path / "heard.npz", "--unrecorded").wait(30) == 0
    heard = Heard(tmp_path / "heard.npz")
    assert len(heard.samples) > MUTED_S * SAMPLE_RATE_HZ
    assert heard.problems == []


def test_no_microphone_is_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"PULSE_SERVER": f"unix:{tmp_path}/nobody", "XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "lora_cli.main", "--plain"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert "there is no microphone; connect one" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_device_that_is_not_there_is_one_line(microphone: VirtualMicrophone) -> None:
    command = [sys.executable, "-m", "lora_cli.main", "--plain", "--microphone", "defualt"]
    done = subprocess.run(command, env=microphone.environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "there is no such input; did you mean 'default'?" in done.stderr


def test_devices_are_listed(microphone: VirtualMicrophone) -> None:
    command = [sys.executable, "-m", "lora_cli.main", "--list-devices"]
    done = subprocess.run(command, env=microphone.environment, capture_output=True, text=True, check=True, timeout=120)
    assert any(line.startswith("*") and "default" in line for line in done.stdout.splitlines())


def test_microphones_of_a_sound_server_are_listed_by_name_and_heard_though_another_is_the_default(
    microphone: VirtualMicrophone, clip: Path, tmp_path: Path
) -> None:
    settings = ["master=vmic.monitor", "source_name=desk", "source_properties=device.description=Desk"]
    for command in (["load-module", "module-remap-source", *settings], ["load-module", "module-null-sink", "sink_name=quiet"]):
        subprocess.run(["pactl", *command], env=microphone.environment, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["pactl", "set-default-source", "quiet.monitor"], env=microphone.environment, check=True)
    command = [sys.executable, "-m", "lora_cli.main", "--list-devices"]
    done = subprocess.run(command, env=microphone.environment, capture_output=True, text=True, check=True, timeout=120)
    assert any(line.split()[1:] == ["Desk", "(1", "channels)"] for line in done.stdout.splitlines()), done.stdout
    assert "pulse" not in done.stdout
    process = hearing(microphone, 5, tmp_path / "heard.npz", "--named=desk")
    microphone.play(clip)
    assert process.wait(30) == 0
    said = read_file(clip, AudioSettings())
    assert max(Heard(tmp_path / "heard.npz").peaks) == pytest.approx(np.abs(said).max(), abs=0.02)


def test_eight_channels_at_another_rate_are_what_resampling_in_one_go_gives(clip: Path) -> None:
    said = read_file(clip, AudioSettings())
    fast = soxr.resample(said, SAMPLE_RATE_HZ, 44_100)
    eight = np.repeat(fast[:, None], 8, axis=1)
    to_model = _Resampler(44_100)
    heard = np.concatenate([to_model(block) for block in np.array_split(eight, len(eight) // 882)])
    count = min(len(heard), len(said))
    assert len(said) - count < SAMPLE_RATE_HZ / 10, "the resampler holds back more than a moment"
    assert np.corrcoef(heard[:count], said[:count])[0, 1] > 0.999


def test_warnings_are_not_said_over_and_over() -> None:
    health = _Health()
    said = [health.after(CLIPPING, 0, at / 10, recorded=True) for at in range(50)]
    assert [warning for warning in said if warning] == ["too loud, the sound is cut off; turn the microphone down"]
    assert health.after(CLIPPING, 0, 20.0, recorded=True) is not None
    assert "too busy" in (health.after(0.1, 1, 21.0, recorded=True) or "")
    assert health.after(0.1, 1, 22.0, recorded=True) is None


def test_speech_that_is_too_quiet_is_told_and_a_quiet_room_is_not(clip: Path) -> None:
    said = read_file(clip, AudioSettings())
    blocks = said[: len(said) // 320 * 320].reshape(-1, 320)
    peaks = [float(peak) for peak in np.abs(np.concatenate([blocks, blocks])).max(axis=1)]

    def told(levels: list[float]) -> set[str]:
        health = _Health()
        return {warning for at, level in enumerate(levels) if (warning := health.after(level, 0, at / 50, recorded=True))}

    rms = float(np.sqrt(np.square(said).mean()))
    assert told([peak * 10 ** (-50 / 20) / rms for peak in peaks]) == {"too quiet; come closer, or turn the microphone up"}
    assert told([peak * 10 ** (-30 / 20) / rms for peak in peaks]) == set()
    assert told([0.0005 * (2 + at % 3) for at in range(500)]) == set()


def test_blocks_that_are_lost_are_reported_once_each_and_only_while_it_is_recorded() -> None:
    """The number of lost blocks only grows; what counts is whether it has grown since the block before."""
    health = _Health()
    lost = [0, 2, 2, 2, 3, 3, 4]
    said = [health.after(0.1, count, 100.0 * at, recorded=at != 4) for at, count in enumerate(lost)]
    assert [at for at, warning in enumerate(said) if warning] == [1, 6]
    assert {warning for warning in said if warning} == {"sound was lost because the machine is too busy; close other programs"}


def test_blocks_that_portaudio_lost_are_counted_and_reported(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    assert hearing(microphone, 1, tmp_path / "heard.npz", "--lost").wait(30) == 0
    heard = Heard(tmp_path / "heard.npz")
    assert heard.overflows == 2
    assert [told for told in heard.problems if "muted" not in told] == [
        "default: sound was lost because the machine is too busy; close other programs"
    ]


def test_a_microphone_is_called_muted_from_when_it_is_recorded() -> None:
    health = _Health()
    assert [health.after(0.0, 0, at / 10, recorded=False) for at in range(100)] == [None] * 100
    said = [health.after(0.0, 0, 10 + at / 10, recorded=True) for at in range(20)]
    assert [at for at, warning in enumerate(said) if warning] == [round(10 * MUTED_S) + 1]


def test_a_device_that_takes_no_format_says_why_for_each(microphone: VirtualMicrophone) -> None:
    """One that went away after it was listed."""
    code = (
        "from dataclasses import replace; from lora_cli.sound.microphone import Microphone, find;"
        "Microphone(replace(find(None), port=99, rate_hz=44_100, channels=8), None, None, None)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=microphone.environment, capture_output=True, text=True, check=False)
    told = done.stderr.splitlines()[-1]
    assert told.startswith("lora.errors.AudioError: default: takes no format that it was asked for (16000 Hz 1 channels: ")
    for form in ("44100 Hz 1 channels", "44100 Hz 8 channels"):
        assert f"; {form}: Error querying device 99" in told
