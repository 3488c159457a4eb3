"""The config file: what the app takes from it, what flags win over, and what is refused in one line."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from lora_cli import main as app
from lora_cli.config_command import set_value
from lora_cli.dictation import command as dictation
from lora_cli.screen.app import MoonshineApp
from lora_cli.settings import Settings, fill, read_user_settings, user_file
from scripted import Script

from lora.errors import ConfigError

Told = Callable[..., list[str]]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "moonshine-lora").mkdir()
    return tmp_path / "moonshine-lora" / "config.toml"


@pytest.fixture
def config(file: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """What a command prints that works on the file."""
    assert not file.exists()

    def tell(*words: str, code: int = 0) -> list[str]:
        assert app._main(["config", *words]) == code
        return capsys.readouterr().out.splitlines()

    return tell


def filled(settings: Settings, *flags: str, screen: bool = True) -> dict[str, object]:
    options = app._parser().parse_args(list(flags))
    fill(options, settings, screen=screen)
    return vars(options)


def test_what_is_set_is_got_listed_and_left_open_again(config: Told, file: Path) -> None:
    assert config("path") == [str(file)]
    assert config("get", "mode") == ["auto"]
    assert config("get", "microphone", code=1) == []
    config("set", "mode", "hold")
    config("set", "keep", "false")
    config("set", "post_roll", "300")
    config("set", "microphone", 'the "big" one')
    assert read_user_settings() == Settings(mode="hold", keep=False, microphone='the "big" one', post_roll=300)
    assert any(re.match(r'mode +"hold"  - ', line) for line in config("list"))
    assert any(re.match(r'theme +"dark" \(default\)  - ', line) for line in config("list"))
    for key in ("mode", "keep", "microphone", "theme", "post_roll"):
        config("unset", key)
    assert read_user_settings() == Settings()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_change_keeps_comments_and_tables_and_stands_before_these(config: Told, file: Path) -> None:
    file.write_text('# mine\nmode = "vad"  # always\n# end')
    config("set", "mode", "toggle")
    config("set", "theme", "light")
    assert file.read_text() == '# mine\nmode = "toggle"\n# end\ntheme = "light"\n'
    file.write_text("[later]\nmode = 1\n")
    config("set", "mode", "hold")
    assert file.read_text() == 'mode = "hold"\n[later]\nmode = 1\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            'mode = "hodl"',
            r"config\.toml: mode: must be auto, hold, toggle or vad, not 'hodl'; for example: moonshine config set mode auto$",
        ),
        ("post_roll = 1001", r"post_roll: must be a whole number from 0 to 1000, in milliseconds, not 1001; "),
        ("post_roll = true", r"post_roll: must be a whole number"),
        ("keep = 1", r"keep: must be true or false, not 1; "),
        ('theme = ["dark"]', r"theme: must be dark or light, not \['dark'\]; "),
        ("microphone = 2", r"microphone: must be text in one line, not empty, not 2; "),
        ('language = "xx"', r"language: must be .*, not 'xx'; "),
        ('model = "~nobody-at-all/run"', r"model: must be the whole path of a folder that there is, not '~nobody-at-all/run'; "),
        ('model = "./run"', r"model: must be the whole path of a folder"),
        ('mood = "auto"', r"mood: there is no such key \(did you mean mode\?\), only model, .*; moonshine config unset mood removes it$"),
        ("mode =", r"config\.toml: not valid TOML \(.*\); correct it, or remove it"),
    ],
)
def test_the_app_refuses_odd_keys_and_values_and_the_remedy_works(content: str, words: str, config: Told, file: Path) -> None:
    file.write_text(content + "\n")
    with pytest.raises(ConfigError, match=words) as refused:
        app._main(["--plain"])
    command = str(refused.value).rpartition("moonshine config ")[2].split()
    if command[0] in ("set", "unset"):
        config(*command[:3] if command[0] == "set" else command[:2])
        read_user_settings()


@pytest.mark.parametrize(
    "words",
    [("set", "mode", "hodl"), ("set", "mood", "x"), ("get", "mood"), ("unset", "mood"), ("set", "keep", "no"), ("set", "post_roll", "-1")],
)
def test_a_refused_command_leaves_the_file_as_it_was(words: tuple[str, ...], file: Path) -> None:
    file.write_text('mode = "vad"\n')
    with pytest.raises(ConfigError, match=rf"^{file}: {words[1]}: "):
        app._main(["config", *words])
    assert file.read_text() == 'mode = "vad"\n'


def test_a_file_that_no_command_can_change_is_left_to_the_user(file: Path) -> None:
    file.write_text('"mode" = "vad"\n')
    with pytest.raises(ConfigError, match="written in a way that no command can change; edit it yourself"):
        set_value("mode", "hold")
    assert file.read_text() == '"mode" = "vad"\n'


def test_flags_win_over_the_file() -> None:
    settings = Settings(model="packaged:moonshine-base", language="ja", microphone="USB", mode="toggle", keep=False, post_roll=300)
    taken = filled(settings)
    assert taken["settled_in"] == user_file()
    assert [taken[name] for name in ("model_id", "language", "microphone", "mode", "keep")] == [
        "packaged:moonshine-base", "ja", "USB", "toggle", False
    ]  # fmt: skip
    taken = filled(settings, "--model-id", "packaged:moonshine-tiny", "--microphone", "1", "--mode", "vad", "--keep")
    assert taken["settled_in"] is None
    assert [taken[name] for name in ("model_id", "language", "microphone", "mode", "keep")] == [
        "packaged:moonshine-tiny", None, "1", "vad", True
    ]  # fmt: skip
    assert (filled(settings)["post_roll"], filled(settings, "--post-roll", "0")["post_roll"]) == (300, 0)
    assert filled(settings, "--export-dir", "somewhere")["model_id"] is None
    assert filled(settings, screen=False)["mode"] == "auto"
    assert filled(settings, "--file", "clip.wav")["microphone"] is None
    service = dictation.parser().parse_args(["--microphone", "1"])
    fill(service, settings, screen=False)
    assert (service.model_id, service.language, service.microphone, service.keep, service.post_roll) == (
        "packaged:moonshine-base", "ja", "1", False, 300
    )  # fmt: skip


def test_a_folder_is_taken_as_what_it_holds(tmp_path: Path, config: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place, made in (("export", "export.json"), ("adapter", "adapter_config.json"), ("run/lora_adapter", "x"), ("model", "config.json")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / made).touch()
    for name, flag, value in (
        ("export", "export_dir", [tmp_path / "export"]),
        ("adapter", "adapter_dir", [tmp_path / "adapter"]),
        ("run", "run", tmp_path / "run"),
        ("model", "model_id", str(tmp_path / "model")),
    ):
        config("set", "model", name)
        assert filled(read_user_settings())[flag] == value


def test_a_model_of_the_file_that_is_none_is_refused_with_the_files_name(config: Told, file: Path, tmp_path: Path) -> None:
    (tmp_path / "run/lora_adapter").mkdir(parents=True)
    config("set", "model", str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=rf"^{file}: model: .*holds no adapter.*; or choose another: moonshine config set model NAME$"):
        app._main(["--plain"])


def test_the_theme_is_that_of_the_file() -> None:
    async def shown() -> str:
        theme_app = MoonshineApp(replace(Script().session(), theme="light"), environment={})
        async with theme_app.run_test(size=(80, 24)):
            return theme_app.theme

    assert asyncio.run(shown()) == "textual-light"
