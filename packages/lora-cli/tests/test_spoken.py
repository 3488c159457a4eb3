"""`moonshine` as a user talks to it: real speech through a virtual microphone, in real terminals, becomes text."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig import JACK, VirtualMicrophone, require, virtual_microphone
from terminal import KITTY, PRESS, RELEASE, REPEAT, XTERM, Terminal, assert_restored, children

from lora.audio.loading import FileAudio
from lora.dataset.manifest import Rules, Utterance, read
from lora.main import _main as moonshine_lora
from lora.scoring.counts import score_utterance
from lora.units import Seconds

APP = ("-m", "lora_cli.main")

TAIL_S = 0.5
"""How long a key stays down after the last word: sound takes a moment through the server."""

MID_SENTENCE_S = 4
"""In the middle of the longest sentence: `paplay` takes a second to begin."""

PATIENCE_S = 60
"""How long a text may take where the model is still loaded on a busy machine."""


@dataclass(frozen=True)
class Sentence:
    """A recording, what is said in it, and how many words `moonshine-lora transcribe` gets wrong."""

    clip: Path
    text: str
    errors: int

    def assert_heard(self, text: str) -> None:
        """At most one word worse than in transcribing the file."""
        assert errors(self.text, text) <= self.errors + 1, (text, self)

    def assert_begun(self, text: str) -> None:
        """Some of its words, without its end."""
        words = score_utterance(id="", speaker_id=None, seconds=Seconds(1.0), reference=self.text, hypothesis=text).words
        assert words.hits >= 2, text
        assert words.deletions >= 1, text


def errors(reference: str, hypothesis: str) -> int:
    return score_utterance(id="", speaker_id=None, seconds=Seconds(1.0), reference=reference, hypothesis=hypothesis).words.errors


@pytest.fixture(scope="module")
def sentences(speech: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> list[Sentence]:
    """Sentences of 3.5 to 5.5 s, the longest last."""
    chosen = [one for one in speech if "two_cities" in one.id]
    clips = [one.audio.path for one in chosen if isinstance(one.audio, FileAudio)]
    output = tmp_path_factory.mktemp("transcribed") / "out.jsonl"
    arguments = ["--model-id", "packaged:moonshine-tiny", "--output", str(output), "--audio", *map(str, clips)]
    assert moonshine_lora(["transcribe", *arguments]) == 0
    heard = [json.loads(line)["text"] for line in output.read_text().splitlines()]
    return [Sentence(clip, one.text or "", errors(one.text or "", text)) for clip, one, text in zip(clips, chosen, heard, strict=True)]


@pytest.fixture
def microphone() -> Iterator[VirtualMicrophone]:
    with virtual_microphone() as found:
        yield found


@pytest.fixture
def opened() -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        if terminal.child.isalive():
            terminal.child.terminate(force=True)


def finals(out: Path) -> list[str]:
    """The texts that were written to the file so far."""
    lines = out.read_text().splitlines() if out.exists() else []
    return [event["text"] for event in map(json.loads, lines) if event["event"] == "final"]


def until(is_so: Callable[[], bool], meanwhile: Callable[[], object] = lambda: time.sleep(0.1), seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        meanwhile()


def history(state: Path) -> list[dict[str, object]]:
    (file,) = (state / "moonshine-lora/sessions").glob("*/history.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_held_key_gives_the_text_a_narrow_window_passes_and_a_lost_microphone_ends_the_recording(
    microphone: VirtualMicrophone, sentences: Sequence[Sentence], tmp_path: Path, opened: list[Terminal]
) -> None:
    environment = {**microphone.settings, "XDG_STATE_HOME": str(tmp_path)}
    opened.append(terminal := Terminal(tmp_path / "out.jsonl", APP, environment=environment))
    terminal.start(KITTY)
    terminal.until("mode: hold - talk while the space bar is down")

    terminal.child.send(PRESS)
    terminal.until("[REC]")
    speaking = microphone.speak(sentences[0].clip)
    while not speaking.done():
        terminal.child.send(REPEAT)
        terminal.read(0.2)
    terminal.read(TAIL_S)
    terminal.child.send(RELEASE)
    until(lambda: len(finals(terminal.out)) == 1, lambda: terminal.read(0.2))
    sentences[0].assert_heard(finals(terminal.out)[0])
    terminal.until(finals(terminal.out)[0][:30])
    assert history(tmp_path)[0]["text"] == finals(terminal.out)[0]

    terminal.widen(40)
    terminal.until("too narrow")
    terminal.widen(80)
    terminal.until(finals(terminal.out)[0][:30])

    terminal.child.send(PRESS)
    terminal.until("[REC]")
    speaking = microphone.speak(sentences[-1].clip)
    until_at = time.monotonic() + MID_SENTENCE_S
    while time.monotonic() < until_at:
        terminal.read(0.2)
    microphone.unplug()
    terminal.until("gives no sound any more")
    terminal.until("Hold space and talk")
    assert speaking.exception() is not None, "it was heard to the end"
    until(lambda: len(finals(terminal.out)) == 2, lambda: terminal.read(0.2))
    sentences[-1].assert_begun(finals(terminal.out)[1])
    terminal.child.send(RELEASE)
    terminal.child.send("\x03")
    assert terminal.ended() == 0
    assert_restored(terminal)
    assert "Expression" not in terminal.bytes, "PortAudio writes into the screen"
    assert "Traceback" not in terminal.bytes


@pytest.mark.slow
def test_a_toggled_recording_gives_the_text_and_a_killed_app_loses_only_what_is_being_said(
    microphone: VirtualMicrophone, sentences: Sequence[Sentence], tmp_path: Path, opened: list[Terminal]
) -> None:
    environment = {**microphone.settings, "XDG_STATE_HOME": str(tmp_path)}
    opened.append(terminal := Terminal(tmp_path / "out.jsonl", APP, environment=environment))
    terminal.start(XTERM)
    terminal.until("mode: toggle - this terminal does not report key release")

    terminal.child.send(" ")
    terminal.until("[REC]")
    speaking = microphone.speak(sentences[2].clip)
    until(speaking.done, lambda: terminal.read(0.2))
    terminal.read(TAIL_S)
    terminal.child.send(" ")
    until(lambda: len(finals(terminal.out)) == 1, lambda: terminal.read(0.2))
    sentences[2].assert_heard(finals(terminal.out)[0])

    terminal.child.send("e")
    terminal.until("Correct the text")
    terminal.child.send(" indeed")
    terminal.until("indeed")
    terminal.child.send("\r")
    terminal.until("saved for training")

    terminal.child.send(" ")
    terminal.until("[REC]")
    speaking = microphone.speak(sentences[3].clip)
    terminal.read(2)
    (engine,) = [pid for pid in children(terminal.child.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    terminal.child.kill(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{engine}").exists() or Path(f"/proc/{engine}/stat").read_text().split()[2] == "Z")
    (kept,) = history(tmp_path)
    sentences[2].assert_heard(str(kept["text"]))
    corrected = f"{kept['text']} indeed"
    assert kept["corrected"] == corrected
    assert [row.text for row in read(tmp_path / "moonshine-lora/corrections.jsonl", Rules())] == [corrected]


@pytest.mark.slow
@pytest.mark.parametrize("jack", [False, True], ids=["the sound server's", "one that takes nothing else"])
def test_a_device_of_eight_channels_at_44100_hz_is_heard(
    jack: bool, sentences: Sequence[Sentence], tmp_path: Path, opened: list[Terminal]
) -> None:
    with virtual_microphone(rate_hz=44_100, channels=8, jack=jack) as device:
        assert device.format.endswith(" 8ch 44100Hz")
        environment = {**device.settings, "XDG_STATE_HOME": str(tmp_path)}
        opened.append(
            terminal := Terminal(tmp_path / "out.jsonl", [*APP, *(("--microphone", JACK) if jack else ())], environment=environment)
        )
        terminal.start(XTERM)
        terminal.until("mode: toggle")
        terminal.child.send(" ")
        terminal.until("[REC]")
        speaking = device.speak(sentences[5].clip)
        until(speaking.done, lambda: terminal.read(0.2))
        assert speaking.exception() is None
        terminal.read(TAIL_S)
        terminal.child.send(" ")
        until(lambda: len(finals(terminal.out)) == 1, lambda: terminal.read(0.2))
        sentences[5].assert_heard(finals(terminal.out)[0])
        terminal.child.send("q")
        assert terminal.ended() == 0
    assert "Traceback" not in terminal.bytes


@pytest.mark.slow
def test_hands_free_gives_the_text_without_a_key_and_ends_when_stdin_does(
    microphone: VirtualMicrophone, sentences: Sequence[Sentence], tmp_path: Path, opened: list[Terminal]
) -> None:
    keys, theirs = pty.openpty()
    environment = {**microphone.settings, "XDG_STATE_HOME": str(tmp_path)}
    command = [*APP, "--mode", "vad"]
    opened.append(terminal := Terminal(tmp_path / "out.jsonl", command, environment=environment, keys=os.ttyname(theirs)))
    terminal.until("LISTENING")
    os.close(theirs)
    speaking = microphone.speak(sentences[4].clip)
    until(speaking.done, lambda: terminal.read(0.2))
    until(lambda: errors(sentences[4].text, " ".join(finals(terminal.out))) <= sentences[4].errors + 1, lambda: terminal.read(0.2), 60)
    said = finals(terminal.out)
    os.close(keys)
    assert terminal.ended() == 1
    assert_restored(terminal)
    assert "Traceback" not in terminal.bytes
    assert [row["text"] for row in history(tmp_path)] == said


@pytest.mark.slow
def test_without_a_screen_enter_records_what_is_said(microphone: VirtualMicrophone, sentences: Sequence[Sentence], tmp_path: Path) -> None:
    environment = microphone.environment | {"XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, *APP, "--plain", "--mode", "toggle"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as app:
        assert app.stdin is not None
        assert app.stderr is not None
        while not app.stderr.readline().startswith("listening with"):
            assert app.poll() is None
        app.stdin.write("\n")
        assert app.stderr.readline() == "recording\n"
        speaking = microphone.speak(sentences[4].clip)
        until(speaking.done, lambda: time.sleep(0.1))
        app.stdin.write("\nq\n")
        out, _ = app.communicate(timeout=60)
    assert app.returncode == 0
    assert errors(sentences[4].text, out) <= sentences[4].errors + 1


@pytest.mark.slow
def test_without_a_screen_a_lost_microphone_is_one_error_line_after_the_text_so_far(
    microphone: VirtualMicrophone, sentences: Sequence[Sentence], tmp_path: Path
) -> None:
    environment = microphone.environment | {"XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, *APP, "--plain"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = list(iter(process.stderr.readline, "listening with moonshine-tiny\n"))
    speaking = microphone.speak(sentences[-1].clip)
    time.sleep(MID_SENTENCE_S)
    microphone.unplug()
    out, err = process.communicate(timeout=60)
    assert speaking.exception() is not None
    assert process.returncode == 2, err
    sentences[-1].assert_begun(out)
    (line,) = [line for line in [*told, *err.splitlines()] if line.startswith("error: ")]
    assert "gives no sound any more" in line
    assert line == err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.slow
def test_through_tmux_space_toggles_and_the_app_says_why(
    microphone: VirtualMicrophone, sentences: Sequence[Sentence], tmp_path: Path
) -> None:
    require("tmux")
    out = tmp_path / "out.jsonl"
    environment = microphone.environment | {"XDG_STATE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "TMUX_TMPDIR": str(tmp_path)}
    environment.pop("TMUX", None)

    def tmux(*arguments: str) -> str:
        command = ["tmux", "-L", "moonshine", "-f", "/dev/null", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def shows(text: str) -> bool:
        return text in tmux("capture-pane", "-p")

    with ExitStack() as stack:
        tmux("new-session", "-d", "-x", "100", "-y", "26", f"{sys.executable} {' '.join(APP)} > {out}")
        stack.callback(subprocess.run, ["tmux", "-L", "moonshine", "kill-server"], env=environment, capture_output=True, check=False)
        until(lambda: shows("mode: toggle - tmux does not pass key release on"))
        until(lambda: shows("Press space to talk"))
        tmux("send-keys", "Space")
        until(lambda: shows("[REC]"))
        microphone.play(sentences[6].clip)
        time.sleep(TAIL_S)
        tmux("send-keys", "Space")
        until(lambda: len(finals(out)) == 1)
        sentences[6].assert_heard(finals(out)[0])
        until(lambda: shows(finals(out)[0][:40]))
        pid = int(tmux("display-message", "-p", "#{pane_pid}"))
        tmux("send-keys", "q")
        until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.slow
def test_in_kitty_a_held_space_bar_gives_the_text(sentences: Sequence[Sentence], tmp_path: Path) -> None:
    require("Xvfb", "kitty", "xdotool", "import")
    out, socket = tmp_path / "out.jsonl", f"unix:{tmp_path}/kitty"
    with ExitStack() as stack:
        microphone = stack.enter_context(virtual_microphone(noise=True))
        environment = microphone.environment | {"XDG_STATE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "LIBGL_ALWAYS_SOFTWARE": "1"}
        for name in ("TMUX", "NO_COLOR"):
            environment.pop(name, None)

        def start(*command: str, **options: int) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def asked(*command: str) -> str:
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

        def shows(text: str) -> bool:
            return text in asked("kitty", "@", "--to", socket, "get-text")

        server = start("Xvfb", "-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp", stdout=subprocess.PIPE)
        assert server.stdout is not None
        environment["DISPLAY"] = f":{server.stdout.readline().decode().strip()}"
        size = ["remember_window_size=no", "initial_window_width=90c", "initial_window_height=26c", "font_size=11"]
        settings = [*size, "allow_remote_control=yes", "update_check_interval=0", "enable_audio_bell=no"]
        options = [word for setting in settings for word in ("-o", setting)]
        shell = f"exec {sys.executable} {' '.join(APP)} > {out}"
        window_of = start("kitty", "--config", "NONE", *options, "--listen-on", socket, "--class", "moonshine", "sh", "-c", shell)
        until(lambda: shows("mode: hold - talk while the space bar is down"))
        until(lambda: shows("ready after"))
        (window,) = re.findall(r"\d+", asked("xdotool", "search", "--onlyvisible", "--class", "moonshine"))[:1]
        asked("xdotool", "windowfocus", "--sync", window)
        asked("xdotool", "keydown", "space")
        until(lambda: shows("[REC]"))
        speaking = microphone.speak(sentences[0].clip)
        until(lambda: shows("It was the best"))
        picture = tmp_path / "kitty.png"
        asked("import", "-window", window, str(picture))
        speaking.result()
        time.sleep(TAIL_S)
        assert shows("[REC]"), "the key's repeats ended the recording"
        asked("xdotool", "keyup", "space")
        until(lambda: len(finals(out)) == 1)
        sentences[0].assert_heard(finals(out)[0])
        assert picture.stat().st_size > 5000
        asked("xdotool", "key", "q")
        assert window_of.wait(30) == 0
