"""What people get wrong: each mistake is one line that says what to mend, exit code 2, and nothing half-written."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from running import ANY_VERDICT, QUICK, Manifests, files_below, manifests, moonshine_lora, refusal, the_error, write_rows

from lora.dataset.manifest import Utterance
from lora.model.loading import LoadedModel
from lora.runs.record import read as read_record

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sets(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """The clips have three speakers: train and dev share theirs with each other, and with domain and held-out."""
    return manifests(tmp_path_factory.mktemp("sets"), clips)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "run"


@pytest.fixture
def arguments(random_v1: LoadedModel, sets: Manifests, output: Path) -> list[object]:
    """A run that works; a flag given again behind it wins."""
    return ["experiment", "--model-id", random_v1.checkpoint.folder, *sets.flags(), *QUICK, *ANY_VERDICT, "--output-dir", output]


@pytest.fixture(scope="module")
def run(random_v1: LoadedModel, sets: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a random model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = ("--model-id", random_v1.checkpoint.folder)
    assert moonshine_lora("experiment", *model, *sets.flags(), *QUICK, *ANY_VERDICT, "--output-dir", folder).code == 0
    return folder


def rows(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text().splitlines()]


# --- settings --------------------------------------------------------------------------------------------------------------------------


def test_settings(arguments: list[object], output: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    for content, flags, message in (
        (
            None,
            ("--config", tmp_path / "none.toml"),
            "none.toml: no such config file; give one, or a preset (accents, domain, jargon, personal, quickstart, telephone)",
        ),
        ("[train]\nlearnign_rate = 1e-3", ("--config", config), "unknown key 'learnign_rate' in [train]; did you mean 'learning_rate'?"),
        ("[trian]\nepochs = 1", ("--config", config), "unknown section [trian]; did you mean 'train'?"),
        ("[train]\nepochs = 0", ("--config", config), "`float` > 0.0 - at `train.epochs`"),
        ("epochs 3", ("--config", config), "run.toml: not valid TOML"),
        (None, ("--learning_rate", "1e-3"), "unknown flag --learning_rate (did you mean --learning-rate?); see --help"),
        (None, ("--lora-targets=all", "--lora-rank=4"), "unknown flag --lora-rank (did you mean --lora-"),
        (None, ("--batch-size", "0"), "--batch-size 0: must be int >= 1"),
        (None, ("--lora-dropout", "1.5"), "--lora-dropout 1.5: must be float < 1.0"),
        (None, ("--device", "gpu"), "--device gpu: must be one of auto, cpu, cuda, mps"),
        (None, ("surplus",), "unexpected 'surplus'; see --help"),
        (None, ("--epochs",), "argument --epochs: expected one argument; see --help"),
    ):
        if content is not None:
            config.write_text(content)
        result = moonshine_lora(*arguments, *flags)
        assert message in the_error(result)
        assert result.err.count("\n") == 1
        assert not output.parent.exists()


@pytest.mark.parametrize("name", ["model-id", "train-manifest", "domain-manifest", "heldout-manifest", "output-dir"])
def test_each_required_setting(arguments: list[object], output: Path, name: str) -> None:
    place = arguments.index(f"--{name}")
    setting = name.replace("-", "_")
    assert refusal(*arguments[:place], *arguments[place + 2 :]).startswith(
        f"error: {setting} is not set; give --{name}, or write {setting}"
    )
    assert not output.parent.exists()


def test_commands() -> None:
    assert "required: COMMAND" in refusal()
    assert "invalid choice: 'transcirbe'" in refusal("transcirbe")


# --- manifests -------------------------------------------------------------------------------------------------------------------------


def _replaced(line: int, **values: Any) -> Callable[[Rows], Rows]:
    return lambda given: [row | values if number == line else row for number, row in enumerate(given, start=1)]


def _without(*fields: str) -> Callable[[Rows], Rows]:
    return lambda given: [{key: value for key, value in row.items() if key not in fields} for row in given]


MANIFEST_MISTAKES: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "no text": (_without("text"), "5 problems: lines 1, 2, 3, 4, 5: text: is missing; every utterance needs its transcript"),
    "empty text": (_replaced(2, text=" "), "line 2: text: is empty; write the transcript or drop the line"),
    "audio is not there": (_replaced(3, audio="nowhere.wav"), "line 3: audio: nowhere.wav: no such file under"),
    "audio elsewhere": (_replaced(3, audio="../secret.wav"), "line 3: audio: ../secret.wav lies outside the manifest's folder; move it"),
    "another sampling rate": (_replaced(1, sampling_rate=8000), "line 1: sampling_rate: says 8000 Hz,"),
    "no sampling rate": (_replaced(1, sampling_rate=0), "line 1: sampling_rate: must be positive, not 0"),
    "inline at a wrong rate": (
        _replaced(2, audio=[0.1, -0.1] * 8000, sampling_rate=48000, duration=1.0),
        "line 2: duration: says 1.00 s, the audio lasts 0.33 s",
    ),
    "misspelt field": (_replaced(4, speaker="x"), "unknown field 'speaker'; did you mean 'speaker_id'?"),
    "an id twice": (lambda given: [row | {"id": "same"} for row in given], "line 2: id: 'same' is already used on line 1"),
    "silence": (_replaced(1, audio=[0.0] * 16000), "line 1: audio: is silent although the text says"),
    "too long": (_replaced(1, audio=[0.1, -0.1] * 8 * 31_000), "31.0 s is over --max-seconds 30; cut it or raise the limit"),
}


@pytest.mark.parametrize("mistake", MANIFEST_MISTAKES)
@pytest.mark.parametrize("name", ["train", "heldout"])
def test_manifest_rows(arguments: list[object], sets: Manifests, output: Path, name: str, mistake: str) -> None:
    change, message = MANIFEST_MISTAKES[mistake]
    if name == "heldout":
        message = message.replace("5 problems: lines 1, 2, 3, 4, 5", "4 problems: lines 1, 2, 3, 4")
        message = message.replace("its transcript", "its transcript, unless --guardrail drift is set")
    broken = write_rows(sets.train.parent / f"broken-{name}.jsonl", change(rows(getattr(sets, name))))
    error = refusal(*arguments, f"--{name}-manifest", broken)
    assert error.startswith(f"error: {broken}: ")
    assert message in error
    assert not output.parent.exists()


@pytest.mark.parametrize("name", ["domain", "heldout"])
def test_a_test_set_of_one_utterance(arguments: list[object], sets: Manifests, output: Path, name: str) -> None:
    lone = write_rows(sets.train.parent / "lone.jsonl", rows(getattr(sets, name))[:1])
    assert refusal(*arguments, f"--{name}-manifest", lone) == (
        f"error: {lone}: one utterance cannot tell a change from chance; add more, better a hundred"
    )
    assert not output.exists()


def test_unreadable_manifests(arguments: list[object], sets: Manifests, output: Path, tmp_path: Path) -> None:
    content = sets.train.read_text()
    file = sets.train.parent / "broken.jsonl"
    for text, message in (
        ("", "the manifest is empty"),
        ("\n\n", "the manifest is empty"),
        (content + '{"audio": "x.wav", "text": "half', "line 6: line: not valid JSON"),
        (content + "[1, 2]\n", "line 6: line: Expected `object`, got `array`"),
        (content.replace('"text"', "'text'", 1), "line 1: line: not valid JSON"),
    ):
        file.write_text(text)
        assert message in refusal(*arguments, "--train-manifest", file)
    assert "none.jsonl: no such manifest; check the path" in refusal(*arguments, "--domain-manifest", tmp_path / "none.jsonl")
    assert "cannot be read (Is a directory)" in refusal(*arguments, "--domain-manifest", tmp_path)
    assert not output.parent.exists()


def test_speakers(arguments: list[object], sets: Manifests, output: Path) -> None:
    def written(name: str, given: Rows, *speakers: str | None) -> Path:
        named = [row | {"speaker_id": speakers[index % len(speakers)]} for index, row in enumerate(given)]
        return write_rows(sets.train.parent / f"{name}.jsonl", named)

    train, domain = rows(sets.train), rows(sets.domain)
    place = arguments.index("--dev-manifest")
    by_speaker = [*arguments[:place], *arguments[place + 2 :], "--split-by", "speaker"]
    ways_out = "add it, give --dev-manifest, or pass --split-by utterance"
    error = refusal(*by_speaker, "--train-manifest", written("unnamed", train, None))
    assert error.endswith(f"5 of 5 utterances have no `speaker_id` (first on line 1), so it cannot be split by speaker; {ways_out}")
    error = refusal(*by_speaker, "--train-manifest", written("one", train, "anna"))
    assert "only 1 speaker, so none can be held out by speaker; give --dev-manifest, or pass --split-by utterance" in error
    mixed = ("--train-manifest", written("two", train, "anna", "ben"), "--domain-manifest", written("shared", domain, "ben", "anna"))
    error = refusal(*by_speaker, *mixed)
    assert "and domain share 1 speakers, among them" in error
    assert "or pass --split-by utterance when the goal is to adapt to these very speakers" in error
    assert not output.parent.exists()


def test_the_same_recording_in_two_sets(arguments: list[object], sets: Manifests, output: Path) -> None:
    leaked = rows(sets.domain)[0]
    samples, rate = soundfile.read(sets.domain.parent / leaked["audio"], dtype="int16")
    soundfile.write(sets.train.parent / "renamed.wav", samples, rate, subtype="PCM_16")
    copied = leaked | {"audio": "renamed.wav", "id": "renamed", "speaker_id": "somebody"}
    for name, test in (("train", "domain"), ("dev", "domain"), ("replay", "domain")):
        both = write_rows(sets.train.parent / "leak.jsonl", [*rows(getattr(sets, name)), copied])
        error = refusal(*arguments, f"--{name}-manifest", both)
        assert "the same recording is in" in error
        assert f"{test} " in error
        assert "remove it from one of them" in error
    assert "the same recording is in" in refusal(*arguments, "--heldout-manifest", sets.domain)
    assert not output.parent.exists()


# --- models ----------------------------------------------------------------------------------------------------------------------------


def test_model_ids(arguments: list[object], output: Path, tmp_path: Path) -> None:
    for model, message in (
        ("moonshine-tiny", "'moonshine-tiny': not a model id (did you mean `packaged:moonshine-tiny`?)"),
        ("packaged:moonshine-tin", "no such packaged model (did you mean `packaged:moonshine-tiny`?)"),
        (tmp_path / "absent", "absent: no such folder"),
        (tmp_path, "config.json: missing; give the folder `save_pretrained` wrote"),
    ):
        assert message in refusal(*arguments, "--model-id", model)
    error = refusal(*arguments, "--revision", "main")
    assert "only checkpoints on the model hub have revisions" in error
    assert not output.parent.exists()


def test_the_hub_is_not_asked_offline(arguments: list[object], output: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lora.main", *map(str, arguments), "--model-id", "moonshine-ai/moonshine-tiny"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    *_, last = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert last.startswith("error: moonshine-ai/moonshine-tiny: HF_HUB_OFFLINE is set and the hub's cache has no complete copy")
    assert last.endswith("`packaged:moonshine-tiny` or a local folder need no hub")
    assert "Traceback" not in done.stderr
    assert not output.parent.exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_absent(arguments: list[object], output: Path, device: str) -> None:
    present = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if present[device]():
        pytest.skip(f"this machine has {device}")
    error = refusal(*arguments, "--device", device)
    assert error.startswith(f"error: --device {device}: this machine has none that PyTorch ")
    assert "cpu" in error.split("available:")[1]
    assert not output.parent.exists()


def test_sites(arguments: list[object], output: Path) -> None:
    for targets, message in (
        (
            "q_proj",
            "matches no layer; take decoder, self, cross, mlp, encoder, both, all, or match full names such as model.encoder.layers.0.",
        ),
        ("decoder,crss", "matches no layer (did you mean 'cross' for 'crss'?); take decoder,"),
        ("model.(", "neither one of decoder, self, cross, mlp, encoder, both, all nor a regular expression"),
        (".*", "shares its weights with the embedding or is one; leave it out"),
    ):
        assert message in refusal(*arguments, "--lora-targets", targets)
    assert not output.parent.exists()


def test_a_rank_that_the_layers_do_not_allow(arguments: list[object], output: Path) -> None:
    assert "--lora-r 64: is above 32, the smaller side of model.decoder.layers.0." in refusal(*arguments, "--lora-r", 64)
    assert "--lora-ranks encoder=4: 'encoder=4' matches none of the adapted layers" in refusal(*arguments, "--lora-ranks", "encoder=4")
    odd = ("--lora-r", 7, "--init-lora-weights", "orthogonal")
    assert "--lora-r 7: must be even for --init-lora-weights orthogonal" in refusal(*arguments, *odd)
    assert not output.exists()


def test_checkpointing_without_encoder_sites(arguments: list[object], output: Path) -> None:
    message = "--gradient-checkpointing: --lora-targets decoder has no encoder sites, whose memory it saves; leave it out"
    assert message in refusal(*arguments, "--gradient-checkpointing")
    assert not output.exists()


# --- run folders -----------------------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_run(arguments: list[object], run: Path) -> None:
    before = {name: (run / name).read_bytes() for name in files_below(run) if (run / name).is_file()}
    result = moonshine_lora(*arguments, "--output-dir", run)
    assert the_error(result) == f"error: {run}: holds a run (completed); choose another --output-dir or pass --overwrite"
    assert result.err.count("\n") == 1, "the folder is looked at before minutes are spent"
    assert "holds a run (completed)" in refusal(*arguments, "--output-dir", run, "--dry-run")
    assert {name: (run / name).read_bytes() for name in files_below(run) if (run / name).is_file()} == before


def test_a_folder_that_holds_no_run_is_never_emptied(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    for more in ((), ("--overwrite",)):
        error = refusal(*arguments, "--output-dir", tmp_path / "home", *more)
        assert error == f"error: {tmp_path / 'home'}: is not empty and holds no run; choose another --output-dir"
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_a_damaged_record_does_not_make_a_folder_free(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text("{")
    assert "record.json" in refusal(*arguments, "--output-dir", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["record.json"]


def without_checkpoints(folder: Path) -> set[str]:
    """What lies in a run folder beside the checkpoints of the training."""
    return {name for name in files_below(folder) if Path(name).parts[0] != "checkpoints"}


def test_a_folder_that_cannot_be(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "file: is a file, where a folder is to be made; choose another place" in refusal(*arguments, "--output-dir", tmp_path / "file")
    result = moonshine_lora(*arguments, "--output-dir", tmp_path / "file" / "run")
    assert "cannot be written (Not a directory); choose another place" in the_error(result)
    assert "Baseline" not in result.err
    assert (tmp_path / "file").read_text() == "x"


def test_a_place_where_nothing_may_be_written(arguments: list[object], tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    if os.access(place, os.W_OK):
        place = Path("/sys")  # refuses the superuser too
    result = moonshine_lora(*arguments, "--output-dir", place / "run")
    assert the_error(result).startswith(f"error: {place / 'run'}: cannot be written (")
    assert "Baseline" not in result.err
    assert not (place / "run").exists()


@pytest.mark.parametrize("small_disk", [4, *(pytest.param(size, marks=pytest.mark.slow) for size in (8, 16, 32)), 64, 1024], indirect=True)
def test_a_full_disk(arguments: list[object], small_disk: Path) -> None:
    """From one that does not even take the settings to one that is full when the processor is written."""
    error = refusal(*arguments, "--output-dir", small_disk / "run")
    assert "no space left on the disk; free some or choose another place" in error
    left = files_below(small_disk / "run") if (small_disk / "run").exists() else set()
    assert not [name for name in left if name.endswith(".part")]
    assert not {"processor", "report.md"} & left
    subprocess.run(["mount", "-o", "remount,size=100M", small_disk], check=True)
    again = moonshine_lora(*arguments, "--output-dir", small_disk / "run", "--overwrite")
    assert again.code == 0, again.err


# --- training --------------------------------------------------------------------------------------------------------------------------


def test_a_rate_that_is_far_too_high(arguments: list[object], output: Path) -> None:
    more = ("--learning-rate", "1e30", "--max-steps", 9, "--epochs", 9, "--warmup-steps", 0, "--max-grad-norm", "1e30")
    error = refusal(*arguments, *more)
    assert re.search(r"step \d: (the loss is (nan|inf)|.* are not finite)", error)
    assert "lower --learning-rate" in error
    record = read_record(output)
    assert (record.status, f"error: {record.error}") == ("failed", error)
    assert json.loads((output / "experiment_metrics.json").read_text())["error"] == record.error
    assert without_checkpoints(output) == {"config.toml", "experiment_metrics.json", "log.jsonl", "record.json"}


def test_references_without_a_word(arguments: list[object], sets: Manifests, output: Path) -> None:
    wordless = write_rows(sets.train.parent / "wordless.jsonl", [row | {"text": "-"} for row in rows(sets.heldout)])
    assert "nobody says a word in the held-out set, so it has no error rate; add clips with speech" in refusal(
        *arguments, "--heldout-manifest", wordless
    )
    assert "lora_adapter" not in files_below(output)


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        pytest.param(signal.SIGINT, 130, "interrupted", id="ctrl-c"),
        pytest.param(signal.SIGTERM, 143, "terminated", id="kill", marks=pytest.mark.slow),
    ],
)
def test_stopped_in_the_middle(arguments: list[object], output: Path, number: signal.Signals, code: int, line: str) -> None:
    long = ("--max-steps", 100_000, "--epochs", 100_000, "--eval-interval", 100_000)
    command = [sys.executable, "-m", "lora.main", *map(str, [*arguments, *long])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while not (output / "log.jsonl").exists() or '"update"' not in (output / "log.jsonl").read_text():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, "")
    assert err.splitlines()[-1] == line
    assert "Traceback" not in err
    assert without_checkpoints(output) == {"config.toml", "experiment_metrics.json", "log.jsonl", "record.json"}
    record = read_record(output)
    assert (record.status, record.error) == ("interrupted", line)
    assert json.loads((output / "experiment_metrics.json").read_text())["status"] == "interrupted"
    assert "holds a run (interrupted)" in refusal(*arguments)


# --- transcribe ------------------------------------------------------------------------------------------------------------------------


def test_adapters(run: Path, random_v1: LoadedModel, random_v2: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    model = ("--model-id", random_v1.checkpoint.folder)
    what = ("--manifest", sets.domain, "--output", output)
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in (run / "lora_adapter").iterdir():
        if file.name != "moonshine_lora.json":
            (bare / file.name).write_bytes(file.read_bytes())
    for options, message in (
        (
            (*model, "--adapter-dir", tmp_path / "none"),
            "none: holds no adapter (no adapter_config.json); give a run's",
        ),
        ((*model, "--adapter-dir", run), "run: holds no adapter (no adapter_config.json); give a run's lora_adapter/ folder"),
        ((*model, "--adapter-dir", bare), "bare: has no moonshine_lora.json, so its base model and decode settings are unknown"),
        (("--model-id", random_v2.checkpoint.folder, "--adapter-dir", run / "lora_adapter"), "lora_adapter: was trained on"),
        ((*model, "--adapter-dir", run / "lora_adapter", "--tokens-per-second", 13), "was scored with --tokens-per-second 6.5; leave"),
        (("--model-id", run / "lora_adapter"), "this is a LoRA adapter, not a checkpoint; give the base model it was trained on"),
        ((*model, "--processor-dir", tmp_path / "none"), "none: holds no processor; give a run's processor/ folder"),
        ((*model, "--processor-dir", run), "run: holds no processor"),
        ((*model, "--tokens-per-second", 0), "argument --tokens-per-second: must be a number above 0, not 0"),
        ((*model, "--tokens-per-second", "many"), "argument --tokens-per-second: must be a number, not 'many'"),
        ((*model, "--max-seconds", "nan"), "argument --max-seconds: must be a number above 0, not nan"),
    ):
        assert message in refusal("transcribe", *options, *what), options
    assert not output.exists()


def test_recordings(random_v1: LoadedModel, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 31)
    soundfile.write(tmp_path / "long.wav", noise, 16_000)
    soundfile.write(tmp_path / "short.wav", noise[:800], 16_000)
    (tmp_path / "notes.wav").write_text("not sound")
    (tmp_path / "empty.wav").touch()
    command = ("transcribe", "--model-id", random_v1.checkpoint.folder, "--output", output, "--audio")
    for name, message in (
        ("absent.wav", "absent.wav: no such audio file"),
        ("long.wav", "long.wav: no speech found; check that it is the right recording, channel and track"),
        ("short.wav", "short.wav: lasts 0.05 s"),
        ("notes.wav", "notes.wav: not readable as wav, flac, ogg or mp3"),
        ("empty.wav", "empty.wav: the file is empty (0 bytes)"),
        (".", "is a folder; name an audio file in it"),
    ):
        assert message in refusal(*command, tmp_path / name)
    soundfile.write(tmp_path / "good.wav", noise[:16_000], 16_000)
    assert "long.wav" in refusal(*command, tmp_path / "good.wav", tmp_path / "long.wav")
    assert not output.exists()


def test_mistakes_with_transcribe_are_refused(random_v1: LoadedModel, sets: Manifests, tmp_path: Path) -> None:
    model = ("transcribe", "--model-id", random_v1.checkpoint.folder)
    for options, message in (
        (("--manifest", sets.domain, "--output", tmp_path / "out.csv"), "name it .txt, .srt, .vtt, .json, .jsonl, .tsv, .TextGrid or .eaf"),
        ((), "one of the arguments --manifest --audio is required"),
        (("--manifest", sets.domain, "--audio", "a.wav"), "not allowed with argument"),
        (("--manifest", sets.domain, "--eval-batch-size", 0), "argument --eval-batch-size: must be at least 1, not 0"),
        (("--manifest", tmp_path / "none.jsonl"), "none.jsonl: no such manifest"),
        (("--manifest", sets.domain, "--adapter", tmp_path), "unknown flag --adapter (did you mean --adapter-dir?)"),
        (("--manifest", sets.domain, "--output", sets.domain / "out.json"), "out.json: cannot be written ("),
    ):
        assert message in refusal(*model, *options), options
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    assert refusal("data", "--output", kept) == f"error: {kept}: is a file, where a folder is to be made; choose another place"
    assert kept.read_text() == "mine"
    assert files_below(tmp_path) == {"notes.txt"}
