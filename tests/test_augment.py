"""Copies of training speech: the same whatever the order, the process or the workers; sound, joined right, and never of a test set."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from running import ANY_VERDICT, QUICK, Manifests, files_below, manifests, moonshine_lora, refusal

from lora.audio.effects import PEAK_LIMIT, power
from lora.audio.loading import AudioSettings, FileAudio, load, waveform_hash
from lora.config import AugmentConfig
from lora.dataset.checking import validate
from lora.dataset.manifest import Manifest, Rules, Utterance, read
from lora.model.loading import LoadedModel
from lora.runs.record import read as read_record
from lora.training.augment import MARK_FILE, PAUSE_S, Applied, Augmenter, plan
from lora.units import SAMPLE_RATE_HZ

RAW = AudioSettings()
RULES = Rules(max_s=15.0)


@pytest.fixture(scope="module")
def sets(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return manifests(tmp_path_factory.mktemp("sets"), clips)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of noises and of impulse responses, with a text beside them as such collections have."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(5)
    for name, samples in (
        ("noise/street.wav", rng.normal(0, 0.1, 3 * SAMPLE_RATE_HZ)),
        ("noise/rooms/fan.flac", np.cumsum(rng.normal(0, 0.001, 20 * SAMPLE_RATE_HZ)) % 0.5),
        ("impulse/hall.wav", np.r_[np.zeros(80), 0.9, rng.normal(0, 0.05, 4000) * np.exp(-np.arange(4000) / 900)]),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, samples, SAMPLE_RATE_HZ)
    (folder / "noise" / "LICENSE").write_text("free")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: LoadedModel) -> Path:
    """Copies of these tests only; the model was read from the usual cache before."""
    assert tiny.checkpoint.folder.is_dir()
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def everything(sounds: Path, **others: Any) -> AugmentConfig:
    """All effects, each on about every copy."""
    values = {
        "augment_copies": 2,
        "speed_min": 0.9,
        "speed_max": 1.1,
        "pitch_min": -2.0,
        "pitch_max": 2.0,
        "gain_db": 12.0,
        "noise_dir": str(sounds / "noise"),
        "noise_probability": 1.0,
        "impulse_dir": str(sounds / "impulse"),
        "impulse_probability": 0.7,
        "telephone_probability": 0.5,
        "concat_probability": 0.7,
    }
    return AugmentConfig(**values | others)


def planned(config: AugmentConfig, file: Path, seed: int = 0, rules: Rules = RULES, reverse: bool = False) -> Augmenter:
    manifest = read(file, rules)
    if reverse:
        manifest = manifest.subset(reversed(manifest.utterances))
    return plan(config, seed, rules, (manifest, validate(manifest, rules, RAW)), {}, RAW)


def applied(manifest: Manifest) -> list[Applied]:
    return [msgspec.convert((utterance.meta or {})["augmentation"], Applied) for utterance in manifest]


def test_copies_are_sound_recordings_below_full_scale_within_the_longest_clip(sounds: Path, sets: Manifests) -> None:
    copies = planned(everything(sounds, gain_db=30.0), sets.train).make(RAW)
    assert len(copies.manifest) == 2 * len(read(sets.train, RULES))
    done = applied(copies.manifest)
    for utterance, one in zip(copies.manifest, done, strict=True):
        samples = load(utterance.audio, RAW)
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= PEAK_LIMIT + 1 / 32768
        assert len(samples) <= RULES.max_s * SAMPLE_RATE_HZ
        assert one.speed is not None
        assert 0.9 <= one.speed <= 1.1
        assert one.pitch is not None
        assert -2 <= one.pitch <= 2
        assert one.snr_db is not None
        assert 5 <= one.snr_db <= 20
    assert {one.noise for one in done} == {"street.wav", "rooms/fan.flac"}
    assert any(one.impulse == "hall.wav" for one in done)
    assert any(one.codec for one in done)
    assert copies.summary.scaled == sum(one.scaled_db is not None for one in done) > 0
    assert copies.summary.joined == sum(bool(one.joined) for one in done) > 0
    assert copies.summary.seconds == pytest.approx(sum(recording.length_s for recording in copies.recordings))


def test_a_copy_depends_on_seed_utterance_and_number_only(sounds: Path, sets: Manifests) -> None:
    forward, backward = (planned(everything(sounds), sets.train, reverse=turned) for turned in (False, True))
    hashes = {}
    for augmenter in (forward, backward):
        for utterance in augmenter.manifest:
            for copy in (1, 2):
                samples, text, one = augmenter.variant(utterance, copy)
                assert hashes.setdefault((utterance.id, copy), (waveform_hash(samples), text, one)) == (waveform_hash(samples), text, one)
    assert len({found[0] for found in hashes.values()}) == len(hashes), "no two copies are alike"
    other = planned(everything(sounds), sets.train, seed=1)
    assert all(waveform_hash(other.variant(u, 1)[0]) != hashes[u.id, 1][0] for u in other.manifest)


def test_one_effect_more_leaves_the_draws_of_the_others(sounds: Path, sets: Manifests) -> None:
    with_all, without = (
        planned(everything(sounds, **more), sets.train) for more in ({}, {"gain_db": 0.0, "pitch_min": 0.0, "pitch_max": 0.0})
    )
    for utterance in without.manifest:
        one, other = (augmenter.variant(utterance, 1)[2] for augmenter in (with_all, without))
        assert (one.speed, one.noise, one.snr_db, one.impulse, one.joined) == (
            other.speed,
            other.noise,
            other.snr_db,
            other.impulse,
            other.joined,
        )


def test_two_processes_make_the_same_files(sounds: Path, sets: Manifests, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport msgspec\n"
        "from lora.audio.loading import AudioSettings\nfrom lora.training.augment import plan\nfrom lora.config import AugmentConfig\n"
        "from lora.dataset.checking import validate\n"
        "from lora.dataset.manifest import Rules, read\n"
        "rules, raw = Rules(max_s=15.0), AudioSettings()\n"
        "manifest = read(Path(sys.argv[2]), rules)\n"
        "config = msgspec.json.decode(sys.argv[1], type=AugmentConfig)\n"
        "print(plan(config, 0, rules, (manifest, validate(manifest, rules, raw)), {}, raw).make(raw).summary.folder)\n"
    )
    settings = msgspec.json.encode(everything(sounds)).decode()
    folders = []
    for name in ("one", "two"):
        environment = {"MOONSHINE_LORA_CACHE": str(tmp_path / name), "PYTHONHASHSEED": str(len(folders))}
        command = [sys.executable, "-c", code, settings, str(sets.train)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        folders.append(Path(done.stdout.strip()))
    assert folders[0].name == folders[1].name
    assert files_below(folders[0]) == files_below(folders[1])
    for file in files_below(folders[0]):
        if (folders[0] / file).is_file():
            assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


def test_copies_are_made_once_and_anew_when_a_setting_or_a_sound_changes(sounds: Path, sets: Manifests, own_cache: Path) -> None:
    made: list[int] = []

    def make(**others: Any) -> str:
        return planned(everything(sounds, **others), sets.train).make(RAW, lambda: made.append(1)).summary.folder

    first = make()
    assert len(made) == 10
    assert make() == first
    assert len(made) == 10
    assert make(snr_max_db=10.0) != first
    assert len(made) == 20
    extra = sounds / "noise" / "bell.wav"
    soundfile.write(extra, np.sin(np.arange(8000)) / 3, SAMPLE_RATE_HZ)
    try:
        assert make() != first
    finally:
        extra.unlink()
    assert not [name for name in files_below(own_cache) if name.endswith(".part")]


def test_the_speed_alone_changes_the_length_and_gain_alone_the_level(sets: Manifests) -> None:
    slow = planned(AugmentConfig(augment_copies=1, speed_min=0.8, speed_max=0.8), sets.train)
    soft = planned(AugmentConfig(augment_copies=1, gain_db=6.0), sets.train)
    for utterance in slow.manifest:
        original = load(utterance.audio, RAW)
        assert abs(len(slow.variant(utterance, 1)[0]) - len(original) / 0.8) <= 1
        samples, _, one = soft.variant(utterance, 1)
        assert one.gain_db is not None
        measured = 10 * np.log10(power(samples) / power(original)) - (one.scaled_db or 0.0)
        assert measured == pytest.approx(one.gain_db, abs=1e-3)
        assert len(samples) == len(original)


def test_the_pitch_alone_leaves_the_length_and_makes_copies_anew(sets: Manifests) -> None:
    high, higher = (planned(AugmentConfig(augment_copies=1, pitch_min=low, pitch_max=4.0), sets.train) for low in (1.0, 2.0))
    for utterance in high.manifest:
        samples, text, one = high.variant(utterance, 1)
        assert one.pitch is not None
        assert 1 <= one.pitch <= 4
        assert len(samples) == len(load(utterance.audio, RAW))
        assert text == utterance.text
        assert not np.array_equal(samples, load(utterance.audio, RAW))
    assert high.make(RAW).summary.folder != higher.make(RAW).summary.folder


def test_noise_is_heard_as_far_below_speech_as_the_manifest_says(sounds: Path, sets: Manifests) -> None:
    """From the stored files: what is left after the speech is taken away, both at the level of the copy."""
    config = AugmentConfig(augment_copies=1, noise_dir=str(sounds / "noise"), noise_probability=1.0, snr_min_db=0.0, snr_max_db=25.0)
    augmenter = planned(config, sets.train)
    copies = augmenter.make(RAW)
    for utterance, copy, one in zip(augmenter.manifest, copies.manifest, applied(copies.manifest), strict=True):
        speech, mixed = load(utterance.audio, RAW), load(copy.audio, RAW) * 10 ** (-(one.scaled_db or 0.0) / 20)
        assert 10 * np.log10(power(speech) / power(mixed - speech)) == pytest.approx(one.snr_db, abs=0.1)


def test_joined_copies_hold_the_words_in_order_and_all_the_sound(sets: Manifests) -> None:
    augmenter = planned(AugmentConfig(augment_copies=4, concat_probability=1.0, concat_clips=4), sets.train)
    known = {utterance.id: utterance for utterance in augmenter.manifest}
    lengths = set()
    for utterance in augmenter.manifest:
        for copy in range(1, 5):
            samples, text, one = augmenter.variant(utterance, copy)
            chain = [utterance, *(known[name] for name in one.joined)]
            assert len({part.id for part in chain}) == len(chain)
            assert text.split() == [word for part in chain for word in (part.text or "").split()]
            waveforms = [load(part.audio, RAW) for part in chain]
            spoken = sum(map(len, waveforms))
            pauses = len(samples) - spoken
            assert (len(chain) - 1) * PAUSE_S[0] * SAMPLE_RATE_HZ - len(chain) <= pauses <= (len(chain) - 1) * PAUSE_S[1] * SAMPLE_RATE_HZ
            assert len(samples) <= RULES.max_s * SAMPLE_RATE_HZ
            assert np.array_equal(samples[: len(waveforms[0])], waveforms[0])
            assert np.array_equal(samples[-len(waveforms[-1]) :], waveforms[-1])
            lengths.add(len(chain))
    assert lengths >= {2, 3}


def test_the_same_speaker_is_joined_before_others(clips: Sequence[Utterance], tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    rows = []
    for number, clip in enumerate(clips[:6]):
        assert isinstance(clip.audio, FileAudio)
        (tmp_path / f"{number}.wav").write_bytes(clip.audio.content())
        rows.append(
            {"audio": f"{number}.wav", "text": f"clip {number}", "id": str(number), "speaker_id": "anna" if number < 4 else f"b{number}"}
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    augmenter = planned(AugmentConfig(augment_copies=8, concat_probability=1.0, concat_clips=2), file, rules=Rules(max_s=30.0))
    for utterance in augmenter.manifest:
        joined = {augmenter.variant(utterance, copy)[2].joined for copy in range(1, 9)}
        assert all(len(names) == 1 for names in joined)
        if utterance.speaker_id == "anna":
            assert {name for names in joined for name in names} <= {"0", "1", "2", "3"} - {utterance.id}


# --- whole runs ------------------------------------------------------------------------------------------------------------------------


def flags(sounds: Path) -> list[object]:
    return [
        *("--augment-copies", 2, "--speed-min", 0.9, "--speed-max", 1.1, "--gain-db", 6, "--noise-dir", sounds / "noise"),
        *("--pitch-min", -2, "--pitch-max", 2),
        *("--impulse-dir", sounds / "impulse", "--telephone-probability", 0.5, "--concat-probability", 0.5),
    ]


@pytest.fixture
def arguments(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> list[object]:
    """A run that works; a flag given again behind it wins."""
    model = ("--model-id", random_v1.checkpoint.folder)
    return ["experiment", *model, *sets.flags(), *QUICK, *ANY_VERDICT, "--output-dir", tmp_path / "outputs" / "run"]


def test_a_run_trains_on_the_copies_and_records_them(arguments: list[object], sounds: Path, tmp_path: Path) -> None:
    done = moonshine_lora(*arguments, *flags(sounds), "--batch-size", 5, "--max-steps", 3, "--epochs", 1)
    assert done.code == 0, done.err
    assert "10 augmented clips (2 of each utterance" in done.err
    run = tmp_path / "outputs" / "run"
    record = read_record(run)
    assert record.augmentation is not None
    assert record.augmentation.clips == 10
    assert record.manifests["train"].utterances == 5
    assert record.training is not None
    assert record.training.steps == 3, "15 clips in batches of 5 are one epoch"
    assert record.training.audio_seconds > record.manifests["train"].seconds + record.augmentation.seconds - 0.01
    for name in ("report.md", "report.html"):
        assert f"Augmentation: {record.augmentation.sentence}." in (run / name).read_text()
    again = moonshine_lora(*arguments, *flags(sounds), "--batch-size", 5, "--max-steps", 3, "--epochs", 1, "--overwrite")
    assert again.code == 0
    adapter = read_record(run).adapter
    assert adapter is not None
    assert record.adapter is not None
    assert adapter.sha256 == record.adapter.sha256


def test_pitch_without_its_library_is_refused_before_anything_starts(arguments: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    assert "error: pitch needs python-stretch" in refusal(*arguments, "--augment-copies", 1, "--pitch-max", 2, "--dry-run")


def test_a_dry_run_checks_and_makes_nothing(arguments: list[object], sounds: Path, tmp_path: Path) -> None:
    done = moonshine_lora(*arguments, *flags(sounds), "--dry-run")
    assert done.code == 0, done.err
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "cache" / "augmented").exists()


def test_examples_are_written_for_listening(arguments: list[object], sounds: Path, tmp_path: Path) -> None:
    for count, expected in ((3, 3), (99, 10)):
        done = moonshine_lora(*arguments, *flags(sounds), "--write-augmented", count)
        assert done.code == 0, done.err
        folder = tmp_path / "outputs" / "run-augmented"
        assert done.out == f"{folder}: {expected} augmented clips in audio/, what was done to each in manifest.jsonl; nothing was trained\n"
        manifest = read(folder / "manifest.jsonl", Rules())
        assert len(manifest) == expected
        assert all(recording.length_s > 0.1 for recording in validate(manifest, Rules(), RAW))
        assert {one.source for one in applied(manifest)} <= {utterance.id for utterance in read(Path(str(arguments[4])), Rules())}
        assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["run-augmented"]
    (folder / MARK_FILE).unlink()
    message = "run-augmented: exists and holds no augmented examples; move it or choose another --output-dir"
    assert message in refusal(*arguments, *flags(sounds), "--write-augmented", 1)
    assert len(read(folder / "manifest.jsonl", Rules())) == 10


def test_mistakes_are_one_line_each(arguments: list[object], sounds: Path, sets: Manifests, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").write_text("nothing here")
    for name, content in (("broken", b"RIFF and no more"), ("void", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hum.wav").write_bytes(content)
    (tmp_path / "silent").mkdir()
    soundfile.write(tmp_path / "silent" / "hum.wav", np.zeros(16000), SAMPLE_RATE_HZ)
    (tmp_path / "leak").mkdir()
    tested = next(iter(read(sets.domain, Rules())))
    assert isinstance(tested.audio, FileAudio)
    soundfile.write(tmp_path / "leak" / "hum.wav", *soundfile.read(tested.audio.path, dtype="int16"))
    copies = ("--augment-copies", 1)
    noise = (*copies, "--noise-dir")
    for given, message in (
        (("--gain-db", 3), "--gain-db varies copies, and there are none; give --augment-copies too, or leave it out"),
        (("--write-augmented", 2), "--write-augmented: there are no copies to write; give --augment-copies and an effect"),
        (("--write-augmented", 0), "--write-augmented"),
        (copies, "--augment-copies 1 without an effect only repeats the speech; give --speed-min, --pitch-min, --gain-db"),
        (("--augment-copies", -1), "--augment-copies -1: must be int >= 0"),
        ((*noise, tmp_path / "none"), "none: no such folder"),
        ((*noise, tmp_path / "empty"), "--noise-dir " + str(tmp_path / "empty") + ": holds no audio (.3g2, .3gp, .aac"),
        ((*noise, tmp_path / "broken"), "hum.wav: not readable as wav, flac, ogg or mp3"),
        ((*noise, tmp_path / "void"), "hum.wav: the file is empty (0 bytes)"),
        ((*noise, tmp_path / "silent"), "hum.wav: is silent; take it out of --noise-dir"),
        ((*noise, tmp_path / "leak"), "hum.wav: is a recording of the set domain; training must not hear it, take it out of --noise-dir"),
        ((*copies, "--impulse-dir", tmp_path / "empty"), "--impulse-dir " + str(tmp_path / "empty") + ": holds no audio"),
        ((*noise, sounds / "noise", "--snr-min-db", 20, "--snr-max-db", 5), "--snr-min-db 20 is above --snr-max-db 5; swap them"),
        ((*copies, "--speed-min", 1.2), "--speed-min 1.2 is above --speed-max 1; swap them"),
        ((*copies, "--pitch-min", 1), "--pitch-min 1 is above --pitch-max 0; swap them"),
        ((*copies, "--pitch-max", 13), "--pitch-max 13: must be float <= 12.0"),
        ((*copies, "--pitch-min", -13), "--pitch-min -13: must be float >= -12.0"),
        ((*copies, "--pitch-max", "high"), "--pitch-max high: must be float"),
        ((*copies, "--pitch-max", "nan"), "--pitch-max"),
        (("--pitch-max", 2), "--pitch-max varies copies, and there are none; give --augment-copies too, or leave it out"),
        ((*noise, sounds / "noise", "--noise-probability", 1.5), "--noise-probability 1.5: must be float <= 1.0"),
        ((*copies, "--concat-probability", -0.1), "--concat-probability -0.1: must be float >= 0.0"),
        (
            (*copies, "--gain-db", 3, "--snr-min-db", 3),
            "--snr-min-db changes nothing without --noise-dir; give it, or leave --snr-min-db out",
        ),
        ((*noise, sounds / "noise", "--noise-probability", 0), "--noise-dir changes nothing without a probability above 0"),
        ((*copies, "--gain-db", 3, "--telephone-codecs", "gsm"), "--telephone-codecs changes nothing without a probability above 0"),
        (
            (*copies, "--telephone-probability", 1, "--telephone-codecs", "gsm,amr"),
            "no codec is named 'amr'; known are none, mulaw, alaw, gsm, opus",
        ),
        ((*copies, "--gain-db", 3, "--rms-dbfs", -23), "--gain-db is undone by --rms-dbfs"),
        ((*copies, "--speed-min", 0.5, "--max-seconds", 7), "over --max-seconds 7; raise either"),
    ):
        line = refusal(*arguments, *given, "--dry-run")
        assert message in line, line
    assert not (tmp_path / "outputs").exists()
