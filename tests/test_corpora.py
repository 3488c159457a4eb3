"""The corpora of the default run are what their publishers ship, cleanly split; fetching fails with a reason or gives exactly them."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lora.audio.loading import AudioSettings, FileAudio, Waveform, load, stored_seconds
from lora.corpora import asterisk, general, quickstart
from lora.corpora.asterisk import CORPUS_SHA256, CORRECTIONS, corpus_sha256, read_transcripts, same_text_key
from lora.corpora.build import Choice, Item, Summary, build, choose
from lora.corpora.general import HELDOUT, REPLAY, Recording, waveform
from lora.corpora.hub import candidates
from lora.corpora.quickstart import QuickstartManifests
from lora.dataset.checking import validate
from lora.dataset.manifest import Manifest, Rules, read
from lora.dataset.splits import require_disjoint
from lora.errors import ConfigError, FetchError, RunFolderError
from lora.system.files import sha256_file
from lora.units import SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def prompts() -> Path:
    return asterisk.fetch()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> QuickstartManifests:
    return quickstart.prepare(tmp_path_factory.mktemp("data") / "quickstart")


@pytest.fixture(scope="module")
def manifests(made: QuickstartManifests) -> dict[str, Manifest]:
    return {path.stem: read(path, Rules()) for path in made.paths()}


def test_prompts_are_the_pinned_corpus(prompts: Path) -> None:
    assert corpus_sha256(prompts) == CORPUS_SHA256
    assert asterisk.route_taken(prompts)


def test_no_transcript_describes_a_sound(prompts: Path) -> None:
    texts = read_transcripts(prompts)
    assert len(texts) == 551
    assert not [text for text in texts.values() if set(text) & set("[](){}<>*#") or not same_text_key(text)]
    assert not [name for name in texts if name.startswith("silence/") or name in ("beep", "tt-monkeys", "confbridge-join")]
    assert texts["letters/at"] == "at"
    assert texts["letters/space"] == "space"
    assert texts["spy-iax2"] == "IAX"
    assert texts["vm-intro"].endswith("press the pound key.")


def test_every_correction_is_needed_and_applied(prompts: Path) -> None:
    published = dict(line.split(":", 1) for line in (prompts / asterisk.TRANSCRIPTS).read_text().splitlines() if ":" in line)
    texts = read_transcripts(prompts)
    for name, (wrong, right) in CORRECTIONS.items():
        assert published[name].count(wrong) == 1, name
        assert right in texts[name]
        assert wrong not in texts[name].replace(right, "")


def test_splits_share_no_words_and_have_their_sizes(manifests: dict[str, Manifest]) -> None:
    sizes = {name: len(manifests[name]) for name in ("train", "dev", "test")}
    assert sizes == {"train": 328, "dev": 55, "test": 165}
    keys = [{same_text_key(u.text or "") for u in manifests[name]} for name in sizes]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert not keys[1] & keys[2]
    assert {u.speaker_id for name in sizes for u in manifests[name]} == {"allison"}


def test_prompts_are_copied_as_published(made: QuickstartManifests, manifests: dict[str, Manifest], prompts: Path) -> None:
    for utterance in manifests["test"]:
        assert isinstance(utterance.audio, FileAudio)
        assert utterance.audio.path == made.test.parent / "audio" / f"{utterance.id}.wav"
        assert utterance.audio.path.read_bytes() == (prompts / f"{utterance.id}.wav").read_bytes()
        assert utterance.audio.rate_hz() == 8000


def test_all_five_are_valid_and_disjoint(manifests: dict[str, Manifest]) -> None:
    checked = {name: (manifest, validate(manifest, Rules(), AudioSettings())) for name, manifest in manifests.items()}
    require_disjoint(checked, speakers=False)
    require_disjoint({name: checked[name] for name in ("train", "heldout", "replay")}, speakers=True)
    words = {name: sum(len((u.text or "").split()) for u in manifest) for name, manifest in manifests.items()}
    assert words["heldout"] > 120
    assert words["test"] > 1000


def level_dbfs(samples: Waveform) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(samples.astype(np.float64) ** 2)) + 1e-9))


@pytest.mark.parametrize("recording", [*HELDOUT, *REPLAY], ids=lambda recording: recording.name)
def test_cuts_lie_in_pauses(recording: Recording) -> None:
    samples = waveform(recording)
    ends = {round(cut.end_s, 2) for cut in recording.cuts} | {round(cut.start_s, 2) for cut in recording.cuts}
    speech = level_dbfs(samples)
    for at_s in sorted(ends):
        at = round(at_s * SAMPLE_RATE_HZ)
        if 0.01 < at_s < len(samples) / SAMPLE_RATE_HZ - 0.02:
            around = samples[at - 800 : at + 800]  # 0.1 s
            assert level_dbfs(around) < speech - 18, at_s
    assert all(first.end_s <= second.start_s for first, second in zip(recording.cuts, recording.cuts[1:], strict=False))


def test_heldout_and_replay_are_different_recordings() -> None:
    assert not {r.member for r in HELDOUT} & {r.member for r in REPLAY}


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_preparing_again_changes_nothing_and_a_second_place_is_identical(made: QuickstartManifests, tmp_path: Path) -> None:
    folder = made.train.parents[1]
    before = snapshot(folder)
    times = {path: path.stat().st_mtime_ns for path in made.paths()}
    assert quickstart.prepare(folder) == made
    assert {path: path.stat().st_mtime_ns for path in made.paths()} == times
    quickstart.prepare(tmp_path / "other")
    assert snapshot(tmp_path / "other") == before
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_sources_are_named(made: QuickstartManifests) -> None:
    text = (made.train.parents[1] / "SOURCES.md").read_text()
    assert all(word in text for word in ("ShareAlike 3.0", "Allison Smith", "Digium", "MIT", "moonshine-voice==0.1.0"))


def test_broken_folders_are_named(made: QuickstartManifests, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    shutil.copytree(made.train.parents[1], folder)
    found = quickstart.manifests(folder)
    next(u.audio.path for u in read(found.dev, Rules()) if isinstance(u.audio, FileAudio)).unlink()
    with pytest.raises(RunFolderError, match=r"no such file under .*; delete the folder and run again"):
        quickstart.prepare(folder)
    found.test.write_text(found.test.read_text() + "\n")
    with pytest.raises(RunFolderError, match=r"(?s)(dev|telephone/test)\.jsonl"):
        quickstart.prepare(folder)
    found.train.unlink()
    with pytest.raises(RunFolderError, match=r"telephone/train\.jsonl is missing"):
        quickstart.prepare(folder)
    (folder / quickstart.STAMP).write_text("{}")
    with pytest.raises(RunFolderError, match="missing required field"):
        quickstart.prepare(folder)
    (folder / quickstart.STAMP).unlink()
    with pytest.raises(RunFolderError, match="holds files, but no quickstart data"):
        quickstart.prepare(folder)


def test_another_version_is_made_anew(made: QuickstartManifests, tmp_path: Path) -> None:
    folder = tmp_path / "q"
    shutil.copytree(made.train.parents[1], folder)
    stamp = json.loads((folder / quickstart.STAMP).read_text())
    (folder / quickstart.STAMP).write_text(json.dumps({**stamp, "version": 0}))
    quickstart.manifests(folder).train.unlink()
    assert read(quickstart.prepare(folder).train, Rules())


def test_damaged_cache_is_named(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path))
    copy = tmp_path / "corpora" / prompts.name
    shutil.copytree(prompts, copy)
    (copy / "hello.wav").write_bytes(b"")
    with pytest.raises(FetchError, match="the cached prompts are damaged; delete the folder and run again"):
        asterisk.fetch()
    (copy / "hello.wav").unlink()
    with pytest.raises(FetchError, match=r"hello\.wav is missing"):
        asterisk.fetch()


def test_route_follows_the_system_and_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(asterisk.ROUTE_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asterisk.choose_route() == "upstream"
    for name in ("apt-get", "dpkg"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert asterisk.choose_route() == "debian"
    monkeypatch.setenv(asterisk.ROUTE_VARIABLE, "upstream")
    assert asterisk.choose_route() == "upstream"
    monkeypatch.setenv(asterisk.ROUTE_VARIABLE, "ftp")
    with pytest.raises(ConfigError, match="must be debian or upstream"):
        asterisk.choose_route()


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt-get")
def test_apt_without_network_gives_its_reason_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "apt.conf"
    places = {"Etc::sourcelist": os.devnull, "Etc::sourceparts": tmp_path / "none", "State::lists": tmp_path / "lists"}
    config.write_text("".join(f'Dir::{name} "{path}";\n' for name, path in places.items()))
    monkeypatch.setenv("APT_CONFIG", str(config))
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(asterisk.ROUTE_VARIABLE, "debian")
    with pytest.raises(FetchError, match="Unable to locate package asterisk-core-sounds-en-wav; check the network"):
        asterisk.fetch()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock"][1:]


@pytest.mark.parametrize("root", ["", "./", "sounds/en/"])
def test_a_release_archive_unpacks_to_the_same_corpus(prompts: Path, tmp_path: Path, root: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(prompts.rglob("*")):
            if path.is_file() and path.name != "route.json":
                archive.add(path, f"{root}{path.relative_to(prompts)}")
        escape = tarfile.TarInfo("../evil.wav")
        archive.addfile(escape, io.BytesIO())
    stream.seek(0)
    asterisk.unpack_release(stream, tmp_path / "out")
    assert corpus_sha256(tmp_path / "out") == CORPUS_SHA256
    assert not (tmp_path / "evil.wav").exists()


def test_what_is_no_release_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="not a readable archive"):
        asterisk.unpack_release(io.BytesIO(b"<html>"), tmp_path)
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    empty.seek(0)
    with pytest.raises(FetchError, match=r"holds no core-sounds-en\.txt"):
        asterisk.unpack_release(empty, tmp_path)


def test_upstream_out_of_reach_gives_its_reason(tmp_path: Path) -> None:
    """As a process, whose proxy is a closed port."""
    environment = {
        **os.environ,
        "MOONSHINE_LORA_CACHE": str(tmp_path),
        asterisk.ROUTE_VARIABLE: "upstream",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
    }
    code = "import sys; from lora.console import run; from lora.corpora import asterisk; sys.exit(run(lambda: bool(asterisk.fetch())))"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == FetchError.exit_code
    assert result.stderr.startswith("error: https://downloads.asterisk.org/")
    assert "cannot be downloaded" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "split", "there"),
    [
        (None, "test.clean", ("all", "test.clean")),
        (None, "test.clean", ("clean", "test")),
        (None, "test_clean", ("all", "test.clean")),
        (None, "test-other", ("other", "test")),
        ("other", "test", ("all", "test.other")),
        ("other", "test", (None, "test_other")),
        ("clean", "train.100", ("all", "train.clean.100")),
        (None, "train-clean-360", ("clean", "train.360")),
        (None, "dev.other", ("other", "validation")),
        ("all", "clean.test", ("clean", "test")),
    ],
)
def test_librispeech_split_names_are_mapped(config: str | None, split: str, there: tuple[str | None, str]) -> None:
    assert there in candidates(config, split)
    assert candidates(config, split)[0] == (config, split)


def test_other_split_names_are_taken_literally() -> None:
    assert candidates("en", "test") == [("en", "test")]
    assert candidates(None, "train") == [(None, "train")]


def test_sample_is_uniform_seeded_and_in_order(made: QuickstartManifests) -> None:
    audio = next(u.audio for u in read(made.heldout, Rules()) if isinstance(u.audio, FileAudio))
    items = [Item(str(n), audio, "x", None) for n in range(40)]
    draws = [[int(item.id) for item in choose(items, Choice(10, seed), Summary())] for seed in range(200)]
    assert all(draw == sorted(set(draw)) and len(draw) == 10 for draw in draws)
    assert [int(item.id) for item in choose(items, Choice(10, 0), Summary())] == draws[0]
    counts = np.bincount(np.concatenate(draws), minlength=40)
    assert counts.min() > 25  # 50 expected, 6 the standard deviation
    assert counts.max() < 75
    assert len(list(choose(items, Choice(), Summary()))) == 40
    with pytest.raises(ConfigError, match="--samples 41: only 40 are available"):
        choose(items, Choice(41, 0), Summary())


def test_the_first_recordings_are_taken_as_they_come_and_no_more_is_read(made: QuickstartManifests, tmp_path: Path) -> None:
    """Writing keeps pace with reading, so that a corpus may be larger than memory."""
    audio = next(u.audio for u in read(made.heldout, Rules()) if isinstance(u.audio, FileAudio))
    length_s = stored_seconds(audio)
    for choice, expected in ((Choice(limit=3), 3), (Choice(hours=4.5 * length_s / 3600), 5), (Choice(limit=9, hours=length_s / 3600), 1)):
        output = tmp_path / f"{expected}.jsonl"
        asked: list[int] = []

        def source(asked: list[int] = asked, output: Path = output) -> Iterator[Item]:
            for number in itertools.count():
                asked.append(number)
                folders = list(output.parent.glob(f".{output.stem}_audio.*.part"))
                assert sum(1 for folder in folders for _ in folder.iterdir()) == number
                yield Item(str(number), audio, "x", None)

        assert build(source(), choice, output, "path", overwrite=False).utterances == expected
        assert len(asked) == len(read(output, Rules())) == expected


def test_general_clips_hold_the_cut_they_name(manifests: dict[str, Manifest]) -> None:
    for recording in (*HELDOUT, *REPLAY):
        samples = np.clip(waveform(recording), -1, 1)  # resampling overshoots where the recording is at full scale
        for number, cut in enumerate(recording.cuts, start=1):
            name = f"{recording.name}-{number:02d}"
            utterance = next(u for name_ in ("heldout", "replay") for u in manifests[name_] if u.id == name)
            piece = load(utterance.audio, AudioSettings())
            start = round(cut.start_s * SAMPLE_RATE_HZ)
            assert np.abs(piece - samples[start : start + piece.size]).max() <= 1 / 32768
            assert (utterance.text, utterance.speaker_id) == (cut.text, recording.name)


def test_wheel_members_exist() -> None:
    assert {r.member for r in (*HELDOUT, *REPLAY)} == {
        f"moonshine_voice/assets/{name}.wav" for name in ("two_cities", "beckett", "endgame_nagg_nell")
    }
    assert general.waveform(REPLAY[0]).size / SAMPLE_RATE_HZ == pytest.approx(28.28, abs=0.01)
