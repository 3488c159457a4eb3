"""The record of a run: what is written is what is read, and nothing else is taken for one."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from records import completed
from running import ROOT

from lora.config import RunConfig, build
from lora.errors import RunFolderError
from lora.runs.folder import RunLog, take
from lora.runs.record import SCHEMA, command, environment, now, read, write
from lora.system.artifacts import CONFIG_FILE, LOCK_FILE, LOG_FILE, RECORD_FILE
from lora.system.locking import Hold


def test_what_is_written_is_read(tmp_path: Path) -> None:
    broken_off = msgspec.structs.replace(
        completed(status="failed", error="no\nspace"), domain=None, heldout=None, verdict=None, adapter=None
    )
    for record in (completed(), broken_off):
        write(record, tmp_path)
        assert read(tmp_path) == record


def test_rates_follow_from_the_counts_that_are_kept(tmp_path: Path) -> None:
    write(completed(), tmp_path)
    again = read(tmp_path)
    assert again.domain is not None
    assert (again.domain.baseline.score.wer, again.domain.tuned.score.wer) == (3 / 12, 1 / 12)
    assert again.verdict is not None
    assert again.verdict.sentence == completed().verdict.sentence  # type: ignore[union-attr]  # a completed run has one


def test_the_file_can_be_read_without_this_package(tmp_path: Path) -> None:
    write(completed(), tmp_path)
    plain = json.loads((tmp_path / RECORD_FILE).read_text())
    assert plain["schema"] == SCHEMA
    assert plain["domain"]["tuned"]["score"]["utterances"][1]["hypothesis"] == "your call is import"
    assert {section: set(values) for section, values in plain["config"].items()} == {
        section.name: set(section.type.__struct_fields__) for section in msgspec.structs.fields(RunConfig)
    }


@pytest.mark.parametrize("schema", [SCHEMA + 1, SCHEMA - 1, 0, str(SCHEMA), None])
def test_a_record_of_another_schema_is_refused(tmp_path: Path, schema: object) -> None:
    write(completed(), tmp_path)
    plain = json.loads((tmp_path / RECORD_FILE).read_text())
    (tmp_path / RECORD_FILE).write_text(json.dumps(plain | {"schema": schema}))
    older = isinstance(schema, int) and schema < SCHEMA
    advice = "make the run again with its config.toml and another --output-dir, or read" if older else "read"
    found = re.escape(json.dumps(schema))
    with pytest.raises(
        RunFolderError, match=rf"record\.json: has schema {found}, this version reads {SCHEMA}; {advice} it with the version"
    ):
        read(tmp_path)


def test_a_record_without_a_schema_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text('{"status": "completed"}')
    with pytest.raises(RunFolderError, match=rf"has schema none, this version reads {SCHEMA}"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", f'{{"schema": {SCHEMA}}}', f'{{"schema": {SCHEMA}, "status": "sleeping"}}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD_FILE).write_text(content)
    with pytest.raises(RunFolderError, match=r"record\.json: "):
        read(tmp_path)


@pytest.mark.parametrize(("field", "value"), [("id", "other"), ("speaker_id", "other"), ("seconds", 70.0), ("reference", "another text")])
def test_a_record_whose_sides_are_of_other_utterances_is_refused(tmp_path: Path, field: str, value: object) -> None:
    write(completed(), tmp_path)
    content = json.loads((tmp_path / RECORD_FILE).read_text(encoding="utf-8"))
    content["domain"]["tuned"]["score"]["utterances"][0][field] = value
    (tmp_path / RECORD_FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunFolderError, match="domain: baseline and tuned are of other utterances"):
        read(tmp_path)


def test_a_folder_without_a_record_holds_no_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunFolderError, match=r"holds no run \(no record\.json\)"):
            read(folder)


def test_a_taken_folder_is_a_run_at_once(tmp_path: Path) -> None:
    opening, folder, hold = completed(status="running"), tmp_path / "a" / "run", Hold()
    take(folder, overwrite=False, record=opening, hold=hold)
    log = RunLog(folder / LOG_FILE, hold)
    assert {path.name for path in folder.iterdir()} == {RECORD_FILE, CONFIG_FILE, LOCK_FILE}
    assert read(folder).status == "running"
    assert build({}, folder / CONFIG_FILE) == opening.config
    log.write("update", step=1)
    log.write("update", step=2, note='quotes " and\nlines')
    lines = [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [("update", 1), ("update", 2)]
    hold.release()
    with pytest.raises(RunFolderError, match=r"holds a run \(running\)"):
        take(folder, overwrite=False, record=opening, hold=Hold())
    again = Hold()
    take(folder, overwrite=True, record=opening, hold=again)
    again.release()
    assert {path.name for path in folder.iterdir()} == {RECORD_FILE, CONFIG_FILE}


def test_the_environment_names_versions_and_the_commit() -> None:
    found = environment("cpu", "some cpu", 3, "plain products")
    assert found.versions.keys() >= {"moonshine-lora", "torch", "transformers", "peft", "whisper-normalizer"}
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    git = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert (found.commit or "").removesuffix("+dirty") == git.stdout.strip()


def test_the_command_names_the_program_without_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/moonshine-lora", "experiment", "--epochs", "3"])
    assert command() == ("moonshine-lora", "experiment", "--epochs", "3")


def test_times_sort_as_text_and_name_their_zone() -> None:
    first, second = now(), now()
    assert first <= second
    assert first.endswith("+00:00")
