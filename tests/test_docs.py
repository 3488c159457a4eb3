"""The documentation is executed: every command, path, flag, link and config that it shows, found by looking for all of them."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile
from running import ANY_VERDICT, ROOT, Result, moonshine_lora

from lora.config import build, flat
from lora.corpora import commands, quickstart
from lora.dataset.manifest import Rules, read
from lora.model.loading import LoadedModel
from lora.runners import experiment, real_small

DOCS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/README.md")])
CONFIGS = sorted(ROOT.glob("configs/*.toml"))
NEEDS = {
    *("", "hub", "quickstart", "export", "own-manifests", "recordings", "slow", "peers", "launcher", "unfinished-run"),
    *("tools", "cpu-builds", "timed", "terms", "voices", "long", "server", "an4"),
}
"""What a comment `<!-- needs: X -->` before a block says; the empty one is a block that runs as it stands."""

FIRST_LINES = 6
"""How much of each quickstart manifest the commands here are run on."""


@dataclass(frozen=True)
class Command:
    """A documented command."""

    doc: Path
    needs: str
    text: str

    @property
    def words(self) -> list[str]:
        """The command without `uv run`, which only chooses the environment."""
        words = shlex.split(self.text, comments=True)
        return words[2:] if words[:2] == ["uv", "run"] else words

    def __str__(self) -> str:
        return f"{self.doc.name}: {' '.join(self.words[:3])}"


def blocks(language: str) -> Iterator[tuple[Path, str, str]]:
    """File, mark and text of every code block in that language."""
    for doc in DOCS:
        for needs, text in re.findall(rf"(?:<!-- needs: ([\w-]+) -->\n)?^```{language}\n(.*?)^```", doc.read_text(), re.S | re.M):
            yield doc, needs, text


COMMANDS = [
    Command(doc, needs, line)
    for doc, needs, text in blocks("bash")
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def chosen(*programs: str, needs: str | None = None) -> list[Command]:
    """Documented commands of these programs, each once."""
    found = [c for c in COMMANDS if c.words[0] in programs and (needs is None or c.needs == needs)]
    return list({tuple(command.words): command for command in found}.values())


MAKE, JUST = chosen("make"), chosen("just")
LORA = [
    command for command in chosen("moonshine-lora") if command.needs not in ("unfinished-run", "timed", "voices", "long", "server", "an4")
]
VOICES = chosen("moonshine-lora", needs="voices")
LONG = chosen("moonshine-lora", needs="long")
"""test_longform.py runs them."""
TIMED = chosen("moonshine-lora", needs="timed")
"""test_recordings.py runs them."""
SERVERS = chosen("moonshine-lora", needs="server")
CURLS = chosen("curl", needs="server")
AN4 = chosen("moonshine-lora", needs="an4")
RESUMED = chosen("moonshine-lora", needs="unfinished-run")
SCRIPTS = [command for command in chosen("python") if command.words[1].startswith("scripts/")]
MODULES = [command for command in chosen("python") if command.words[1] == "-m" and command.words[2] != "pytest"]
TESTED = [command for command in chosen("python") if command.words[1:3] == ["-m", "pytest"]]
BENCHMARKS = [command for command in chosen("python") if command.words[1].startswith("benchmarks/")]
LAUNCHERS = chosen("torchrun", "accelerate")
INSTALLS = chosen("uv", "export")
"""test_installing.py runs them."""
OTHERS = (*chosen("moonshine"), *INSTALLS)


def in_process(function: object, *arguments: str) -> str:
    """What a command's `main(arguments)` prints before it ends well."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as stop:
        function(list(arguments))  # type: ignore[operator]
    assert stop.value.code == 0, out.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader's checkout is after `make data`, with the first lines of each manifest, and own manifests of the same speech."""
    place = tmp_path_factory.mktemp("workplace")
    for name in ("Makefile", "justfile"):
        shutil.copy(ROOT / name, place)
    for name in ("configs", "scripts"):
        (place / name).symlink_to(ROOT / name)
    (place / ".venv").symlink_to(sys.prefix)
    made = quickstart.prepare(place / "data" / "quickstart")
    for file in made.paths():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:FIRST_LINES]))
    for name, source in (("domain", made.train), ("personal", made.train), ("general", made.heldout)):
        (place / "data" / name).mkdir()
        shutil.copytree(source.parent / "audio", place / "data" / name / "audio", copy_function=os.link)
    for name in ("domain", "personal"):
        for part, source, speaker in (("train", made.train, "anna"), ("test", made.test, "ben")):
            rows = [json.loads(line) for line in source.read_text().splitlines()]
            spoken = [row | {"speaker_id": f"{speaker}-{number % 2}"} for number, row in enumerate(rows)]
            (place / "data" / name / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoken))
    for source in (made.heldout, made.replay):
        shutil.copy(source, place / "data" / "general")
    (place / "data" / "jargon").mkdir()
    (place / "data" / "jargon" / "terms.txt").write_text("kubectl = cube control\nPostgres\n")
    return place


@pytest.fixture(scope="module")
def finished(workplace: Path, tiny: LoadedModel) -> Path:
    """The same after `make run`, with two updates instead of hundreds."""
    assert tiny.checkpoint.model_id == "packaged:moonshine-tiny"
    with chdir(workplace):
        options = ("--max-steps", 2, "--eval-interval", 1, "--overwrite", *ANY_VERDICT)
        result = moonshine_lora("experiment", "--config", "configs/quickstart.toml", *options)
    assert result.code == 0, result.err
    return workplace


@pytest.fixture(scope="module")
def exported(finished: Path) -> Path:
    """The same after the export that docs/export.md begins with."""
    (command,) = [command for command in LORA if command.words[1] == "export"]
    with chdir(finished):
        result = moonshine_lora(*command.words[1:], "--skip-proof")
    assert result.code == 0, result.err
    return finished


def just(place: Path, *arguments: str) -> Result:
    program = shutil.which("just", path=Path(sys.prefix) / "bin") or shutil.which("just")
    if program is None:
        pytest.skip("just is not installed")
    done = subprocess.run([program, *arguments], cwd=place, capture_output=True, text=True, check=False, timeout=300)
    return Result(done.returncode, done.stdout, done.stderr)


# --- commands --------------------------------------------------------------------------------------------------------------------------


def test_every_documented_command_is_checked_by_a_test_below() -> None:
    assert {command.needs for command in COMMANDS} <= NEEDS
    known = {
        tuple(command.words)
        for command in (
            *MAKE,
            *JUST,
            *LORA,
            *VOICES,
            *LONG,
            *TIMED,
            *SERVERS,
            *CURLS,
            *AN4,
            *RESUMED,
            *SCRIPTS,
            *MODULES,
            *TESTED,
            *BENCHMARKS,
            *LAUNCHERS,
            *OTHERS,
        )
    }
    assert {tuple(command.words) for command in COMMANDS} == known
    assert {command.needs for command in SCRIPTS} <= {"hub", "recordings"}, "test_scripts.py runs those that need recordings"
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_make_targets(command: Command) -> None:
    """`make run` and `make test` would run this test again, so only what they would do is looked at."""
    planned = subprocess.run(["make", "-n", *command.words[1:]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in planned.splitlines():
        words = shlex.split(line)
        for name in (word for word in words if word.startswith((".venv/bin/", "configs/", "benchmarks/"))):
            place = Path(sys.prefix) / name.removeprefix(".venv/") if name.startswith(".venv/") else ROOT / name
            assert place.exists(), line
    assert planned.strip()


def with_exports_apart(commands: list[Command]) -> list[Any]:
    """The commands; those that export in every form, or use what such an export made, are slow."""
    slow = [command for command in commands if command.needs == "export" or "transformers-js" in command.words]
    return [pytest.param(command, marks=pytest.mark.slow) if command in slow else command for command in commands]


@pytest.mark.parametrize("command", with_exports_apart(LORA), ids=str)
def test_moonshine_lora_commands(command: Command, finished: Path) -> None:
    name, *arguments = command.words[1:]
    check_only = ["--dry-run"] if name in ("experiment", "sweep") and not {"--help", "--dry-run"} & set(arguments) else []
    check_only += ["--skip-proof"] if name == "export" else []  # two updates change no transcript, which proves nothing
    with chdir(finished):
        result = moonshine_lora(name, *arguments, *check_only)
    assert result.code == 0, result.err
    assert result.out


@contextmanager
def server(command: Command, place: Path) -> Iterator[str]:
    """A documented server, on a free port; gives its address, and ends it."""
    words = [sys.executable, "-m", "lora.main", *command.words[1:], "--port", "0"]
    if "--wyoming" in words:
        words += ["--wyoming", "0"]
    with subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().partition(": ")[0].replace("0.0.0.0", "127.0.0.1")
        finally:
            process.terminate()
            assert process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", SERVERS, ids=lambda command: command.words[-1])
def test_documented_servers_answer_what_is_documented(command: Command, finished: Path) -> None:
    sound = next((finished / "data" / "quickstart" / "telephone" / "audio").rglob("*.wav"))
    shutil.copy(sound, finished / "talk.flac")
    (finished / "api-key").write_text(f"{'k' * 32}\n")
    (finished / "api-key").chmod(0o600)
    with server(command, finished) as address:
        if len(chosen_models := [word for word in command.words if "=" in word]) < 2:
            return
        assert chosen_models[0].startswith("prompts=")
        for curl in CURLS:
            words = [word.replace("http://127.0.0.1:8000/v1", address) for word in curl.words]
            done = subprocess.run([*words, "--fail-with-body", "--silent"], cwd=finished, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout
        (block,) = (text for _, needs, text in blocks("python") if needs == "server")
        with chdir(finished):
            exec(compile(block.replace("http://127.0.0.1:8000/v1", address), "serving.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("command", VOICES, ids=str)
def test_recipes_of_voices(command: Command, workplace: Path) -> None:
    words = command.words[1:]
    programs = [shlex.split(voice)[0] for flag, voice in pairwise(words) if flag == "--voice-command"]
    if missing := [program for program in programs if shutil.which(program) is None]:
        reason = f"{missing[0]} is not installed; `make rig` installs it on Debian and Ubuntu"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    few = ["--max-steps", "2", "--test-per-term", "1", *ANY_VERDICT, "--min-term-recall", "0", "--max-false-alarms", "1000"]
    with chdir(workplace):
        result = moonshine_lora(*words, "--per-term", 2, *(few if words[0] == "jargon" else []))
    assert result.code == 0, result.err


@pytest.mark.parametrize("command", RESUMED, ids=str)
def test_commands_that_continue_with_a_run_say_so_where_there_is_none(command: Command, workplace: Path) -> None:
    """With a run or a study they are in test_resume.py and test_sweep.py."""
    with chdir(workplace):
        result = moonshine_lora(*command.words[1:])
    assert result.code == 2
    assert ("holds no study" if command.words[1] == "sweep" else "holds no run that could be resumed") in result.err


@pytest.mark.slow
@pytest.mark.parametrize("command", LAUNCHERS, ids=str)
def test_launchers_start_one_run_of_several_processes(command: Command, workplace: Path, tmp_path: Path) -> None:
    program, *arguments = command.words
    short = ("--max-steps", "2", "--eval-interval", "1", "--device", "cpu", "--output-dir", str(tmp_path / "run"), *ANY_VERDICT)
    done = subprocess.run(
        [Path(sys.prefix) / "bin" / program, *arguments, *short], cwd=workplace, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(set(done.stdout.splitlines())), "only one process talks"
    assert "accepted" in done.stdout
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if entry["event"] == "update"] == [1, 2]
    assert log[0]["processes"] == int(arguments[arguments.index("--nproc-per-node") + 1]) == 2


@pytest.mark.parametrize("command", MODULES, ids=str)
def test_modules_that_are_run(command: Command) -> None:
    """They run in test_experiment.py and test_end_to_end.py; here, that they exist and know their flags."""
    mains = {"lora.runners.experiment": experiment.main, "lora.runners.real_small": real_small.main}
    shown = in_process(mains[command.words[2]], "--help")
    assert all(word in shown for word in command.words[3:] if word.startswith("--"))
    assert command.needs == "slow"


@pytest.mark.parametrize("command", TESTED, ids=str)
def test_tests_that_are_named_are_found(command: Command) -> None:
    found = subprocess.run(
        [sys.executable, *command.words[1:], "--collect-only", "-q"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert int(re.findall(r"(\d+) tests collected", found)[0]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("command", with_exports_apart([command for command in JUST if command.words[1] == "transcribe"]), ids=str)
def test_the_transcribe_recipe(command: Command, request: pytest.FixtureRequest) -> None:
    place: Path = request.getfixturevalue("exported" if command.needs == "export" else "finished")
    result = just(place, *command.words[1:])
    assert result.code == 0, result.err
    text = (place / shlex.split(command.words[2])[-1]).read_text()
    rows = json.loads(text)["utterances"] if command.needs == "export" else text.splitlines()
    assert len(rows) == FIRST_LINES
    assert len(result.out.splitlines()) == FIRST_LINES
    assert "WER" in result.err


def test_a_run_in_the_background(workplace: Path) -> None:
    documented = [command for command in JUST if command.words[1] != "transcribe"]
    assert [command.words[1] for command in documented] == ["run-experiment", "poll", "status"]
    start, poll, status = (command.words[1:] for command in documented)
    assert just(workplace, *status).code == 2
    started = just(workplace, start[0], f"{start[1]} --dry-run")
    assert started.code == 0, started.err
    assert started.out.startswith("started as process ")
    process = int((workplace / "outputs" / "background" / "pid").read_text())
    assert f"{process}" in started.out
    # A second one is refused while it goes on, and the state is told; afterwards how it ended.
    state = just(workplace, *status)
    assert f"running as process {process}" in state.out
    assert f"an experiment is running (process {process})" in just(workplace, *start).err
    ended = workplace / "outputs" / "background" / "exit"
    deadline = time.monotonic() + 300
    while not (ended.exists() and ended.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert just(workplace, *status).out.startswith("ended with exit code 0 (0 accepted")
    assert re.search(r"^ready: \d+ layers to adapt, nothing was trained or written$", just(workplace, *poll).out, re.M)


def test_commands_that_need_the_hub_say_so_without_one(tmp_path: Path) -> None:
    """In one process, for `datasets` takes seconds to import."""
    needed = [command for command in SCRIPTS if command.needs == "hub"]
    assert needed
    code = (
        "import json, sys\nfrom lora.console import run\nfrom lora.corpora import commands\n"
        "for name, *arguments in json.loads(sys.argv[1]):\n"
        "    print(name, run(lambda: getattr(commands, name)(arguments)), flush=True)\n"
    )
    given = [[Path(command.words[1]).stem, *command.words[2:]] for command in needed]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(given)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == [f"{name} 2" for name, *_ in given]
    lines = done.stderr.splitlines()
    assert len(lines) == len(needed), done.stderr
    assert all(re.match(r"error: .*the hub.*--dataset FOLDER", line) for line in lines), done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", SCRIPTS, ids=str)
def test_scripts_know_their_flags(command: Command) -> None:
    assert (ROOT / command.words[1]).is_file()
    shown = in_process(getattr(commands, Path(command.words[1]).stem), "--help")
    assert all(word.split("=")[0] in shown for word in command.words[2:] if word.startswith("--"))


@pytest.mark.parametrize("command", BENCHMARKS, ids=str)
def test_benchmarks_know_their_flags(command: Command) -> None:
    """They take minutes, other people's programs and a machine to themselves: none of which a test has."""
    done = subprocess.run([sys.executable, ROOT / command.words[1], "--help"], capture_output=True, text=True, check=True, timeout=300)
    assert all(word.split("=")[0] in done.stdout for word in command.words[2:] if word.startswith("--"))


@pytest.mark.parametrize("command", chosen("moonshine"), ids=str)
def test_the_terminal_app(command: Command) -> None:
    from lora_cli import main as app

    assert "usage: moonshine" in in_process(app._main, *command.words[1:])


def test_starts_of_the_terminal_app_are_understood() -> None:
    """They take a microphone and a person; here, that their flags are taken."""
    shown = [line for _, _, text in blocks("text") for line in text.splitlines() if line.startswith("uv run moonshine")]
    assert len(shown) > 10
    for line in shown:
        understand(shlex.split(line)[3:])


def understand(words: list[str]) -> None:
    """Ends with an error for what a command of the terminal app, or the app itself, does not take."""
    from lora_cli import main as app

    command = app.COMMANDS.get(words[0]) if words else None
    module = app if command is None else importlib.import_module(command.module)
    if command is None:
        app._parser().parse_args(words)
    elif command.function != "main":  # asks the dictation service, and takes nothing
        assert len(words) == 1
    elif words[0] == "service":  # passes flags on
        _, flags = module._parser().parse_known_args(words[1:])
        importlib.import_module("lora_cli.dictation.command").parser().parse_args(flags)
    else:
        (module.parser if hasattr(module, "parser") else module._parser)().parse_args(words[1:])


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one[0].name == "export.md" else [], id=one[0].name)
        for one in blocks("python")
        if one[1] not in ("server", "an4")
    ],
)
@pytest.mark.usefixtures("moonshine_voice")
def test_python_blocks(block: tuple[Path, str, str], request: pytest.FixtureRequest) -> None:
    place: Path = request.getfixturevalue("exported" if block[1] == "export" else "finished")
    with chdir(place):
        exec(compile(block[2], str(block[0]), "exec"), {"__name__": "__main__"})  # fails by raising


def test_the_recipe_for_an4_reads_its_archive(workplace: Path, tmp_path: Path) -> None:
    """The archive holds sphere files by speaker, and a list of transcripts with names; the sound is that of prompts."""
    sounds = sorted((workplace / "data" / "quickstart" / "telephone" / "audio").rglob("*.wav"))
    for part, folder, line, sound in (
        ("train", "an4_clstk", "<s> YES </s>", sounds[0]),
        ("test", "an4test_clstk", "RUBOUT G M", sounds[1]),
    ):
        name = tmp_path / "an4" / "wav" / folder / "fash" / "an251-fash-b.sph"
        name.parent.mkdir(parents=True)
        (tmp_path / "an4" / "etc").mkdir(exist_ok=True)
        soundfile.write(name, *soundfile.read(sound, dtype="int16"), format="NIST")
        (tmp_path / "an4" / "etc" / f"an4_{part}.transcription").write_text(f"{line} ({name.stem})\n")
    (block,) = (text for _, needs, text in blocks("python") if needs == "an4")
    with chdir(tmp_path):
        exec(compile(block, "experiments.md", "exec"), {"__name__": "__main__"})
        assert [moonshine_lora(*command.words[1:]).code for command in AN4] == [0, 0]
        rows = [json.loads(Path("data", "domain", f"{part}.jsonl").read_text()) for part in ("train", "test")]
    assert [(row["text"], row["speaker_id"]) for row in rows] == [("YES", "fash"), ("RUBOUT G M", "fash")]


@pytest.mark.parametrize("block", list(blocks("json")), ids=lambda block: block[0].name)
def test_manifest_lines(block: tuple[Path, str, str], workplace: Path) -> None:
    for line in block[2].splitlines():
        row = json.loads(line)
        sound = next((workplace / "data" / "quickstart" / "telephone" / "audio").rglob("*.wav"))
        (workplace / "line" / row["audio"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sound, workplace / "line" / row["audio"])
        (workplace / "line" / "line.jsonl").write_text(line + "\n")
        (utterance,) = read(workplace / "line" / "line.jsonl", Rules())
        assert (utterance.text, utterance.speaker_id) == (row["text"], row["speaker_id"])


def test_the_guide_names_the_section_of_every_setting_and_shows_a_complete_file(tmp_path: Path) -> None:
    guide = ROOT / "docs" / "training.md"
    complete = max((text for doc, _, text in blocks("toml") if doc == guide), key=len)
    (tmp_path / "run.toml").write_text(complete)
    settings = flat(build({}, tmp_path / "run.toml"))
    assert settings == flat(build({}, ROOT / "configs" / "domain.toml")), "the guide calls it the preset"
    sections = {name: section for section, _, name in (setting.partition(".") for setting in settings)}
    assert set(re.findall(r"^\[(\w+)\]", complete, re.M)) == set(sections.values())
    rows = re.findall(r"^\| ((?:`--[\w-]+`(?:, )?)+) \| `\[(\w+)\]` \|", guide.read_text(), re.M)
    assert len(rows) > 15
    for flags, section in rows:
        assert {sections[flag.replace("-", "_")] for flag in re.findall(r"--([\w-]+)", flags)} == {section}, flags


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_configs_are_complete_and_pass_a_dry_run(file: Path, workplace: Path, tiny: LoadedModel) -> None:
    assert build({}, file).model.model_id == tiny.checkpoint.model_id
    with chdir(workplace):
        result = moonshine_lora("experiment", "--config", f"configs/{file.name}", "--output-dir", "outputs/check", "--dry-run")
    assert result.code == 0, result.err
