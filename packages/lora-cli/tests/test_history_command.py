"""`moonshine history`: earlier sessions are listed, shown, searched, exported and removed, by hand and by age and size."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lora_cli import main as app
from lora_cli.history import History
from lora_cli.sessions import DAY_S, sessions, tidy
from test_history_on_disk import final

from lora.audio.loading import AudioSettings
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import LoraError

Told = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    def tell(*words: str, code: int = 0) -> list[str]:
        assert app._main(["history", *words]) == code
        return capsys.readouterr().out.splitlines()

    return tell


@pytest.fixture
def three(speech: Sequence[Utterance]) -> list[str]:
    """Names of three sessions: one utterance in the first, two in the second, one in the third."""
    for said in ({0: "one"}, {1: "two", 2: "three"}, {3: "four"}):
        history = History()
        for number, text in said.items():
            history.add(final(speech[number], text, 10.0 * number))
        if 3 in said:
            history.correct(final(speech[3], "four", 30.0), "For again.")
        history.close()
        history.folder.rename(history.folder.with_name(f"20260314-09265{min(said)}-x"))  # of another second
    return [one.name for one in sessions()]


def test_sessions_are_listed_shown_and_searched(three: list[str], told: Told) -> None:
    listed = told("list")
    assert [line.split()[:2] for line in listed[:3]] == [[name, count] for name, count in zip(three, "121", strict=True)]
    assert "kept for 90 days after their last use, up to 2000 MB" in listed[3]
    assert [line.split("  ")[-1] for line in told("show", three[1][:17])] == ["two again", "three again"]
    assert [line.split("  ")[-1] for line in told("show", "last")] == ["For again."]
    assert [line.split()[0] for line in told("search", "THREE")] == [three[1]]
    assert told("search", "nothing of the kind", code=1) == []


def test_sessions_are_exported_together_as_a_manifest_that_can_be_read(three: list[str], told: Told, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    assert told("export", "--output", str(file)) == [f"{file}: 4 utterances"]
    manifest = read(file, Rules())
    assert [one.text for one in manifest] == ["one again", "two again", "three again", "For again."]
    assert len(validate(manifest, Rules(), AudioSettings())) == 4
    told("export", three[0], "--output", str(tmp_path / "one.txt"))
    assert (tmp_path / "one.txt").read_text() == "one again\n"


def test_sessions_are_removed_by_name_age_and_all_together(three: list[str], told: Told) -> None:
    assert told("clear", three[0])[0].startswith("removed 1 sessions")
    assert told("clear", "--older-than", "1") == ["removed 0 sessions, 0.0 MB"]
    aged(three[1], days=2)
    assert told("clear", "--older-than", "1")[0].startswith("removed 1 sessions")
    assert [one.name for one in sessions()] == three[2:]
    assert told("clear", "--all")[0].startswith("removed 1 sessions")
    assert sessions() == []


@pytest.mark.usefixtures("three")
def test_a_session_that_continues_is_never_removed(told: Told) -> None:
    going_on = History()
    assert told("clear", "--all")[0].endswith("1 still go on and stay")
    assert [one.folder for one in sessions()] == [going_on.folder]
    going_on.close()


def test_sessions_are_found_while_an_app_writes_into_one(three: list[str]) -> None:
    folder, stop = sessions()[0].folder, threading.Event()

    def write() -> None:
        while not stop.is_set():
            (folder / "audio/temporary").touch()
            (folder / "audio/temporary").unlink()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for _ in range(300):
            assert [one.name for one in sessions()] == three
    finally:
        stop.set()
        writing.join()


def aged(name: str, days: float) -> None:
    (session,) = (one for one in sessions() if one.name == name)
    for path in (session.folder, *session.folder.rglob("*")):
        os.utime(path, (time.time() - days * DAY_S,) * 2)


def test_old_sessions_go_when_the_app_starts_and_the_oldest_where_all_take_too_much(
    three: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tidy(90, 2000)
    assert len(sessions()) == 3
    aged(three[0], days=91)
    tidy(90, 2000)
    assert [one.name for one in sessions()] == three[1:]
    assert "removed 1 old sessions (kept: 90 days, 2000 MB" in capsys.readouterr().err
    with (sessions()[1].folder / "audio/more").open("wb") as file:
        file.truncate(1_000_000)
    tidy(90, 1)
    assert [one.name for one in sessions()] == []


@pytest.mark.usefixtures("three")
def test_corrections_are_counted_and_the_command_to_train_on_them_is_said(told: Told) -> None:
    lines = told("corrections")
    assert "corrections.jsonl: 1 correction, 0." in lines[0]
    assert lines[-1].startswith("  moonshine-lora experiment --config personal --train-manifest ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "2"), "^2: begins the names of 3 sessions; give more of it"),
        (("show", "x"), r"^x: there is no such session \(moonshine history list shows all\)$"),
        (("export", "--output", "all.doc"), r"^--output all.doc: the name must end in \.txt, \.jsonl, \.srt"),
        (("clear",), "^which sessions\\? Name them, or give --older-than DAYS or --all$"),
    ],
)
@pytest.mark.usefixtures("three")
def test_a_wrong_word_is_one_error(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(LoraError, match=message):
        app._main(["history", *words])


@pytest.mark.usefixtures("three")
def test_a_damaged_session_is_named_with_its_line(told: Told) -> None:
    file = sessions()[0].folder / "history.jsonl"
    file.write_text(file.read_text() + "{}\n")
    with pytest.raises(LoraError, match=f"^{file} line 2: is no utterance"):
        told("list")
