"""A microphone on a machine without sound hardware: a private PulseAudio server whose monitor is the default input.

`make rig` installs what it takes on Debian and Ubuntu. Without it these tests are skipped, and in CI they fail.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.audio import AudioSettings, read_file
from lora.units import SAMPLE_RATE_HZ

SINK = "vmic"


def require(*programs: str) -> None:
    """Skips the test, or fails it in CI, where a program of the rig is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        reason = f"{', '.join(missing)} not installed: run `make rig`"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@dataclass
class VirtualMicrophone:
    """`environment` makes a process hear what `play` plays; `settings` is what it adds to the test's own."""

    settings: Mapping[str, str]
    _server: subprocess.Popen[bytes]
    _speakers: ThreadPoolExecutor

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.settings

    def play(self, clip: Path) -> None:
        """Speaks a recording into the microphone, and returns when it was spoken."""
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            soundfile.write(file.name, read_file(clip, AudioSettings()), SAMPLE_RATE_HZ, subtype="PCM_16")
            subprocess.run(["paplay", "-d", SINK, "--latency-msec=50", file.name], env=self.environment, check=True)

    def speak(self, clip: Path) -> Future[None]:
        """The same while the test goes on."""
        return self._speakers.submit(self.play, clip)

    def unplug(self) -> None:
        """The microphone is gone, in the middle of whatever is said."""
        self._server.kill()
        self._server.wait()


@contextmanager
def virtual_microphone(*, noise: bool = False) -> Iterator[VirtualMicrophone]:
    """Silence plays all the time: without it the monitor has no clock, and the first second would be lost. `noise` is that of a room."""
    require("pulseaudio", "pactl", "pacat", "paplay")
    with tempfile.TemporaryDirectory(prefix="mic", dir="/tmp") as name:  # a socket's path has at most 108 characters
        folder = Path(name)
        settings = {
            "PULSE_SERVER": f"unix:{folder}/s",
            "PULSE_RUNTIME_PATH": name,
            "PULSE_STATE_PATH": name,
            "PULSE_COOKIE": f"{folder}/c",
            "XDG_STATE_HOME": f"{folder}/state",
        }
        environment = os.environ | settings
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", f"--log-target=file:{folder}/log"]
        command += ["-L", f"module-native-protocol-unix socket={folder}/s auth-anonymous=1"]
        command += ["-L", f"module-null-sink sink_name={SINK} rate={SAMPLE_RATE_HZ} channels=1 format=s16le"]
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        deadline = time.monotonic() + 20
        while subprocess.run(["pactl", "info"], env=environment, check=False, **quiet).returncode:  # type: ignore[call-overload]
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        subprocess.run(["pactl", "set-default-source", f"{SINK}.monitor"], env=environment, check=True)
        clock = ["pacat", "-p", "-d", SINK, "--latency-msec=20", f"--rate={SAMPLE_RATE_HZ}", "--channels=1", "--format=s16le", "--raw"]
        silence = subprocess.Popen([*clock, _room(folder) if noise else "/dev/zero"], env=environment, **quiet)  # type: ignore[call-overload]
        try:
            with ThreadPoolExecutor(1) as speakers:
                yield VirtualMicrophone(settings, server, speakers)
        finally:
            for process in (silence, server):
                process.kill()
                process.wait()


def _room(folder: Path) -> Path:
    """Some minutes of what a microphone hears in a quiet room."""
    file = folder / "room"
    file.write_bytes(np.random.default_rng(0).integers(-8, 9, 300 * SAMPLE_RATE_HZ, dtype=np.int16).tobytes())
    return file
