"""Settings: one schema, from TOML and flags, with every mistake refused and named."""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w

from lora.config import RunConfig, add_flags, build, flag, from_flags
from lora.errors import ConfigError
from lora.presets import config_file

REQUIRED = {
    "model": {"model_id": "packaged:moonshine-tiny"},
    "data": {"train_manifest": "train.jsonl", "domain_manifest": "domain.jsonl", "heldout_manifest": "heldout.jsonl"},
    "output": {"output_dir": "runs/one"},
}
REQUIRED_FLAGS = {f"{section}.{name}": value for section, values in REQUIRED.items() for name, value in values.items()}

ALL_SETTINGS = [
    (section.name, setting) for section in msgspec.structs.fields(RunConfig) for setting in msgspec.structs.fields(section.type)
]


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_flags(parser)
    return parser.parse_args(arguments)


def toml(folder: Path, content: str | dict[str, Any]) -> Path:
    file = folder / "run.toml"
    file.write_text(content if isinstance(content, str) else tomli_w.dumps(content))
    return file


def with_section(name: str, **values: Any) -> dict[str, Any]:
    return REQUIRED | {name: REQUIRED.get(name, {}) | values}


@pytest.mark.parametrize(("section", "setting"), ALL_SETTINGS, ids=lambda part: part if isinstance(part, str) else part.name)
def test_every_setting_has_a_flag_of_its_name(section: str, setting: msgspec.structs.FieldInfo) -> None:
    samples: dict[str, str] = {
        "device": "cpu",
        "language": "ja",
        "precision": "bfloat16",
        "split_by": "utterance",
        "text_style": "lower",
        "tags": "drop",
        "init_lora_weights": "pissa",
        "replay_targets": "transcript",
        "teach": "terms",
        "method": "full",
        "dev_fraction": "0.3",
        "lora_dropout": "0.3",
        "rms_dbfs": "-26",
        "epochs": "2",
        "rule": "point",
        "guardrail": "drift",
        "max_heldout_rise_points": "0.3",
        "trackers": "wandb",
        "speed_min": "0.5",
        "speed_max": "1.5",
        "pitch_min": "-3",
        "noise_probability": "0.3",
        "snr_max_db": "30",
        "impulse_probability": "0.3",
        "telephone_probability": "0.3",
        "telephone_codecs": "gsm",
        "concat_probability": "0.3",
        "concat_clips": "4",
    }
    copies = ("--augment-copies", "1")
    noise, impulse = (*copies, "--noise-dir", "noise"), (*copies, "--impulse-dir", "rooms")
    needed = {
        "guardrail": ("--max-drift-points", "1"),
        "max_drift_points": ("--guardrail", "drift"),
        **dict.fromkeys(("max_false_alarms", "min_term_recall", "teach"), ("--terms", "terms.txt")),
        "augment_copies": ("--speed-max", "1.1"),
        **dict.fromkeys(
            ("speed_min", "speed_max", "pitch_min", "pitch_max", "gain_db", "noise_dir", "impulse_dir", "telephone_probability"), copies
        ),
        **dict.fromkeys(("noise_probability", "snr_min_db", "snr_max_db"), noise),
        "impulse_probability": impulse,
        "telephone_codecs": (*copies, "--telephone-probability", "1"),
        "concat_probability": copies,
        "concat_clips": (*copies, "--concat-probability", "1"),
    }
    name = flag(setting.name)
    base = [argument for key, value in REQUIRED_FLAGS.items() for argument in (flag(key.split(".")[1]), value)]
    if isinstance(setting.default, bool):
        on, off = from_flags(parse(*base, name), None), from_flags(parse(*base, name.replace("--", "--no-", 1)), None)
        assert getattr(getattr(on, section), setting.name) is True
        assert getattr(getattr(off, section), setting.name) is False
        return
    given = samples.get(setting.name, "3")
    found = getattr(getattr(from_flags(parse(*base, name, given, *needed.get(setting.name, ())), None), section), setting.name)
    assert found != setting.default
    assert str(found).removesuffix(".0") == given


def test_setting_names_are_unique_across_sections() -> None:
    names = [setting.name for _, setting in ALL_SETTINGS]
    assert len(names) == len(set(names))


def test_help_names_every_flag_with_its_default() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = " ".join(parser.format_help().split())
    for _, setting in ALL_SETTINGS:
        assert flag(setting.name) in text
    assert "rank of the update (default: 8)" in text


def test_what_is_not_given_has_its_default(tmp_path: Path) -> None:
    config = build({}, toml(tmp_path, REQUIRED))
    assert config.train.epochs == 3.0
    assert config.data.train_manifest == "train.jsonl"
    assert config == build(REQUIRED_FLAGS, None)


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = toml(tmp_path, with_section("train", epochs=5, batch_size=2))
    config = from_flags(parse("--epochs", "7", "--learning-rate", "3e-4"), file)
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (7.0, 2, 3e-4)
    assert config.train.warmup_steps == 20


def test_a_config_comes_back_from_toml_as_it_was(tmp_path: Path) -> None:
    config = build(REQUIRED_FLAGS | {"train.max_steps": "5", "adapter.use_dora": True}, None)
    content = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in msgspec.to_builtins(config).items()
    }
    assert build({}, toml(tmp_path, content)) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (REQUIRED | {"trian": {"epochs": 1}}, r"unknown section \[trian\]; did you mean 'train'\?; known are model, data"),
        (with_section("train", epohcs=1), r"unknown key 'epohcs' in \[train\]; did you mean 'epochs'\?"),
        (with_section("train", lora_r=4), r"unknown key 'lora_r' in \[train\]; it belongs into \[adapter\]"),
        (with_section("train", lora_alhpa=4), r"unknown key 'lora_alhpa' in \[train\]; did you mean 'lora_alpha' in \[adapter\]\?"),
        (with_section("train", xyzzy=4), r"unknown key 'xyzzy' in \[train\]$"),
        (with_section("train", epochs="three"), r"run\.toml: Expected `float`, got `str` - at `train\.epochs`"),
        (with_section("train", batch_size=0), r"Expected `int` >= 1 - at `train\.batch_size`"),
        (with_section("train", batch_size=2.5), r"got `float` - at `train\.batch_size`"),
        (with_section("data", dev_fraction=1.5), r"Expected `float` <= 1\.0 - at `data\.dev_fraction`"),
        (with_section("data", rms_dbfs=0.0), r"at `data\.rms_dbfs`"),
        (with_section("model", device="gpu"), r"at `model\.device`"),
        (with_section("gate", min_domain_gain_points=float("nan")), r"--min-domain-gain-points must be a finite number, not nan"),
        (with_section("gate", guardrail="drift"), r"run\.toml: --guardrail drift needs a limit; give --max-drift-points"),
        (with_section("gate", max_drift_points=2.0), r"--max-drift-points is for --guardrail drift; set that too, or leave it out"),
        (
            with_section("gate", rule="point", heldout_margin_points=1.0),
            r"--heldout-margin-points is for --rule interval and --guardrail wer",
        ),
        (with_section("gate", max_heldout_rise_points=0.8), r"--heldout-margin-points 0\.5 is below --max-heldout-rise-points 0\.8"),
        (with_section("gate", rule="interwal"), r"at `gate\.rule`"),
        (with_section("train", learning_rate=float("inf")), r"--learning-rate must be a finite number, not inf"),
        (REQUIRED | {"train": 3}, r"train must be a section, written \[train\]"),
        ("[train\nepochs = 1", r"run\.toml: not valid TOML"),
    ],
)
def test_a_mistake_in_the_file_is_refused_and_named(tmp_path: Path, content: str | dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build({}, toml(tmp_path, content))
    assert str(tmp_path / "run.toml") in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "three"], r"--epochs three: must be float"),
        (["--batch-size", "0"], r"--batch-size 0: must be int >= 1"),
        (["--max-steps", "many"], r"--max-steps many: must be int$"),
        (["--batch-size", "2.5"], r"--batch-size 2\.5: must be int"),
        (["--lora-dropout", "1"], r"--lora-dropout 1: must be float < 1\.0"),
        (["--precision", "float16"], r"--precision float16: must be one of float32, bfloat16"),
        (["--max-steps", "-1"], r"--max-steps -1: "),
        (["--learning-rate", "inf"], r"--learning-rate must be a finite number, not inf"),
        (["--learning-rate", "nan"], r"--learning-rate nan: "),
        (["--trackers", "tensorbord"], r"no tracker is named 'tensorbord'; did you mean 'tensorboard'\?; known are tensorboard, wandb, "),
        (["--trackers", "wandb,"], r"no tracker is named ''; known are"),
    ],
)
def test_a_mistake_on_the_command_line_is_refused_and_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_flags(parse(*arguments), toml(tmp_path, REQUIRED))


def test_trackers_are_named_in_one_setting_and_each_once() -> None:
    assert build(REQUIRED_FLAGS, None).output.tracker_names() == ()
    assert build(REQUIRED_FLAGS | {"output.trackers": "wandb, tensorboard,wandb"}, None).output.tracker_names() == ("tensorboard", "wandb")


@pytest.mark.parametrize("missing", REQUIRED_FLAGS)
def test_a_setting_that_is_missing_is_named_with_both_ways_to_give_it(missing: str) -> None:
    section, name = missing.split(".")
    given = {key: value for key, value in REQUIRED_FLAGS.items() if key != missing}
    with pytest.raises(ConfigError, match=rf"^{name} is not set; give {flag(name)}, or write {name} under \[{section}\]"):
        build(given, None)


def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: no such config file"):
        build({}, tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        build({}, tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    with pytest.raises(ConfigError, match="not valid TOML"):
        build({}, tmp_path / "latin.toml")


def test_every_shipped_config_is_valid_up_to_what_the_command_line_adds() -> None:
    files = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
    assert len(files) >= 3
    for file in files:
        held = {f"{section}.{name}" for section, values in tomllib.loads(file.read_text()).items() for name in values}
        config = build({key: value for key, value in REQUIRED_FLAGS.items() if key not in held}, file)
        assert config.model.model_id.startswith("packaged:"), "a shipped config runs without a hub"


def test_settings_are_read_without_torch() -> None:
    code = "import sys, lora.config; print(sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [file.stem for file in sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))])
def test_a_preset_is_found_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert build({}, config_file(name)) == build({}, Path(__file__).parents[1] / "configs" / f"{name}.toml")
    assert config_file(f"./{name}") == Path(name)
    assert config_file(f"{name}.toml") == Path(f"{name}.toml")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.seed", "18446744073709551616"),
        ("train.seed", "9223372036854775808"),
        ("train.epochs", "1e308"),
        ("train.max_steps", "1" * 30),
        ("train.warmup_steps", "1" * 30),
        ("train.batch_size", "1" * 30),
        ("train.patience", "1" * 5000),
        ("eval.eval_batch_size", "1" * 20),
        ("adapter.lora_r", "1000000"),
        ("output.feature_cache_gb", "1e308"),
    ],
)
def test_numbers_that_nothing_can_compute_with_are_refused(setting: str, value: str) -> None:
    given = {f"{section}.{name}": str(one) for section, values in REQUIRED.items() for name, one in values.items()}
    with pytest.raises(ConfigError, match=setting.split(".")[1].replace("_", "[-_]")) as refused:
        build(given | {setting: value}, None)
    assert len(str(refused.value)) < 400
