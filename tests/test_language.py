"""What a language decides: scripts that fit it, its normaliser and metric, its token cap, and the checkpoints that are for it."""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from running import ANY_VERDICT, QUICK, manifests, moonshine_lora, refusal, write_rows

from lora.audio.loading import AudioSettings
from lora.checkpoints.checkpoint import resolve
from lora.config import AdapterConfig, ModelConfig, OutputConfig, RunConfig, build
from lora.config import DataConfig as Data
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import ConfigError, ManifestError
from lora.language import LANGUAGES, Language, foreign_script, lacks_own_script, metric
from lora.model.loading import LoadedModel, load_model
from lora.model.transcript import DecodeSettings
from lora.runs.record import read as read_record
from lora.scoring.counts import Score, score_utterance, total
from lora.scoring.gate import judge
from lora.scoring.significance import compare, drift
from lora.text.normaliser import normalise, normaliser_version
from lora.text.style import resolve_style
from lora.training.adapter import Provenance, attach, save_checkpoint
from lora.units import Seconds

SPOKEN: dict[Language, str] = {
    "en": "Please hold the line.",
    "de": "Bitte bleiben Sie am Apparat. Größe!",
    "tl": "Huwag po sanang ibaba ang telepono.",
    "ar": "من فضلك ابق على الخط.",
    "es": "No cuelgue, por favor. ¡Señor!",
    "ja": "電話を切らずにお待ちください。",
    "ko": "전화를 끊지 말고 기다려 주세요.",
    "uk": "Будь ласка, залишайтеся на лінії.",
    "vi": "Xin vui lòng giữ máy.",
    "zh": "请不要挂断电话。",
}


def run_config(language: Language = "en", **settings: float) -> RunConfig:
    given = {
        "model.model_id": "./somewhere",
        "model.language": language,
        "data.train_manifest": "a",
        "data.domain_manifest": "b",
        "data.heldout_manifest": "c",
        "output.output_dir": "d",
    }
    return build(given | {f"eval.{name}": value for name, value in settings.items()}, None)


def score(language: Language, *pairs: tuple[str, str]) -> Score:
    rows = [
        score_utterance(id=f"u{i}", speaker_id=None, seconds=Seconds(2), reference=one, hypothesis=other, language=language)
        for i, (one, other) in enumerate(pairs)
    ]
    return total(rows, language)


# --- what a language decides --------------------------------------------------------------------------------------------------------------


def test_the_language_is_english_unless_it_is_named() -> None:
    assert ModelConfig(model_id="x").language == "en"
    assert RunConfig(
        model=ModelConfig(model_id="x"),
        data=Data(train_manifest="a", domain_manifest="b", heldout_manifest="c"),
        output=OutputConfig(output_dir="d"),
    ) == build({"model.model_id": "x", **{f"data.{n}_manifest": v for n, v in zip(("train", "domain", "heldout"), "abc", strict=True)}}
               | {"output.output_dir": "d"}, None)  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_token_cap_is_6_5_for_english_and_13_for_others_unless_it_is_set(language: Language) -> None:
    assert run_config(language).tokens_per_second == (6.5 if language == "en" else 13)
    assert run_config(language, tokens_per_second=9).tokens_per_second == 9


def test_only_languages_without_spaces_are_scored_by_characters() -> None:
    assert {language for language in LANGUAGES if metric(language) == "CER"} == {"ja", "zh"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_fits_its_own_language(language: Language) -> None:
    assert foreign_script(SPOKEN[language], language) is None
    assert not lacks_own_script(SPOKEN[language], language)
    assert normalise(SPOKEN[language], language)


@pytest.mark.parametrize(
    ("text", "language", "script"),
    [
        (SPOKEN["uk"], "en", "Cyrillic"),
        (SPOKEN["ar"], "uk", "Arabic"),
        (SPOKEN["ko"], "ja", "Hangul"),
        (SPOKEN["ja"], "zh", "Hiragana"),
        (SPOKEN["zh"], "en", "Chinese"),
        ("ﾃﾞﾝﾜ", "ko", "Katakana"),
        ("Ελληνικά here", "en", "Greek"),
    ],
)
def test_a_text_in_letters_of_another_language_is_known_by_them(text: str, language: Language, script: str) -> None:
    assert foreign_script(text, language) == script


@pytest.mark.parametrize("text", ["", "?!", "3,14", "𝄞", "the letter Ω", "Zoë Müller's naïve café"])
def test_few_foreign_letters_or_none_fit_any_language(text: str) -> None:
    assert foreign_script(text, "en") is None


def test_names_in_latin_letters_fit_every_language() -> None:
    assert all(foreign_script("NHK", language) is None for language in LANGUAGES)
    assert lacks_own_script("NHK", "ja")
    assert not lacks_own_script("NHKの番組", "ja")
    assert not lacks_own_script("2024", "ja")


# --- normalising and scoring --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "written", "scored"),
    [
        ("es", "¡Hola, SEÑOR Pérez!", "hola señor pérez"),
        ("uk", "Їжак — Ґанок.", "їжак ґанок"),
        ("vi", "Xin VUI lòng…", "xin vui lòng"),
        ("ko", "전화를 끊지 마세요!", "전화를 끊지 마세요"),
        ("zh", "请不要挂断。", "请 不 要 挂 断"),
        ("ja", "ガス、NHKです。", "ガ ス n h k で す"),
    ],
)
def test_normalising_keeps_letters_and_drops_case_and_punctuation(language: Language, written: str, scored: str) -> None:
    assert normalise(written, language) == scored


def test_composed_and_decomposed_letters_are_the_same() -> None:
    for language, composed, apart in (("vi", "lòng", "lòng"), ("ja", "ガ", "ガ"), ("ko", "한", "한"), ("es", "ñ", "ñ")):
        assert normalise(composed, language) == normalise(apart, language) == composed  # type: ignore[arg-type]


def test_numbers_are_rewritten_in_english_alone() -> None:
    assert normalise("twenty one") == normalise("21")
    assert normalise("veinte uno", "es") == "veinte uno"


def test_each_way_to_normalise_has_its_own_version() -> None:
    assert len({normaliser_version("en"), normaliser_version("es"), normaliser_version("zh")}) == 3
    assert normaliser_version("es") == normaliser_version("ko")
    assert normaliser_version() == normaliser_version("en")
    assert normaliser_version().startswith("whisper-english, words only (")


def test_english_scores_are_as_they_were() -> None:
    """A record without a language is an English one."""
    import msgspec

    found = score("en", ("a b", "a c"), ("d e", "d e"))
    kept = msgspec.to_builtins(found)
    assert "language" not in kept
    assert msgspec.convert(kept, Score) == found


def test_without_spaces_the_word_error_rate_is_the_character_error_rate() -> None:
    """One of five characters is wrong; with words it would be everything or nothing."""
    found = score("zh", ("请不要挂断。", "请不要挂线"))
    assert (found.words.errors, found.words.reference_length) == (1, 5)
    assert found.wer == found.cer == 0.2
    assert found.metric == "CER"
    assert (found.raw_words.errors, found.raw_words.reference_length) == (2, 6)  # the full stop too


def test_with_spaces_words_count() -> None:
    found = score("ko", ("전화를 끊지 마세요", "전화를 끊지 마시오"))
    assert (found.metric, found.words.errors, found.words.reference_length) == ("WER", 1, 3)


def test_the_verdict_names_the_metric() -> None:
    before = score("zh", *[("请不要挂断", "请不用挂线")] * 8)
    after = score("zh", *[("请不要挂断", "请不要挂断")] * 8)
    change, same = compare(before, after, 0), compare(after, after, 0)
    moved = drift(after, after, 0)
    assert moved is not None
    assert moved.rate == 0
    messages = [check.message for check in judge(domain=change, heldout=same, drift=moved, rules=run_config("zh").gate).checks]
    assert messages[0].startswith("domain CER 40.00 % -> 0.00 %")
    assert messages[1].startswith("held-out CER 0.00 % -> 0.00 %")


def test_transcripts_of_a_language_without_case_are_never_lower_cased_by_themselves() -> None:
    assert resolve_style("auto", ["NHKの番組"], "ja").style == "none"
    assert resolve_style("auto", ["NHK"]).style == "lower"
    assert resolve_style("lower", ["NHKの番組"], "ja").style == "lower"


# --- mixed languages in a manifest --------------------------------------------------------------------------------------------------------


def manifest(folder: Path, *rows: dict[str, str]) -> Path:
    for row in rows:
        (folder / row["audio"]).touch()
    return write_rows(folder / "set.jsonl", rows)


def test_a_row_of_another_language_is_named_with_its_line(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"audio": "a", "text": "Hello.", "language": "en"}, {"audio": "b", "text": "Hola.", "language": "es"})
    with pytest.raises(ManifestError, match=r"line 2: language: is 'es' in a run for English; keep one language in a run"):
        read(file, Rules(language="en"))
    assert len(read(file, Rules())) == 2  # tools that only copy rows take any


def test_a_text_in_foreign_letters_is_named_with_its_line(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"audio": "a", "text": "Hello."}, {"audio": "b", "text": SPOKEN["uk"]})
    with pytest.raises(ManifestError, match=r"line 2: text: is in Cyrillic letters, which English does not use; keep one language"):
        read(file, Rules(language="en"))


def test_a_manifest_that_is_mostly_in_latin_letters_is_not_japanese(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"audio": "a", "text": "Hello."}, {"audio": "b", "text": "You there?"}, {"audio": "c", "text": SPOKEN["ja"]})
    with pytest.raises(ManifestError, match=r"2 of 3 texts hold no Japanese letter, the first on line 1; name the language"):
        read(file, Rules(language="ja"))


def test_the_language_of_a_row_is_kept(tmp_path: Path) -> None:
    file = manifest(tmp_path, {"audio": "a", "text": SPOKEN["vi"], "language": "vi"})
    assert [utterance.language for utterance in read(file, Rules(language="vi"))] == ["vi"]


@pytest.mark.parametrize(
    ("language", "written", "plain"),
    [
        ("other:hi", "नमस्ते, दुनिया! (हँसी)", "नमस्ते दुनिया"),
        ("other:mk", "Жи\u0301ли?", "жили"),
        ("other:he", "שָׁלוֹם", "שלום"),
        ("other:cy", "Mae'r TŶ [sŵn] yn fawr.", "mae r tŷ yn fawr"),
        ("other:fa", "نمی\u200cشود", "نمیشود"),
        ("other:th", "ที่นี่", "ที่ นี่"),
        ("other:yo", "Ọ\u0301jọ́", "ọ\u0301jọ\u0301"),
        ("other:fr", "Two hundred colour 12,5", "two hundred colour 12 5"),
    ],
)
def test_of_any_other_language_letters_keep_the_marks_that_they_are_written_with(language: Language, written: str, plain: str) -> None:
    assert normalise(written, language) == unicodedata.normalize("NFKC", plain)
    assert normalise(plain, language) == normalise(written, language)


def test_vowels_of_indic_scripts_are_told_apart() -> None:
    found = score("other:hi", ("कुल", "कल"))
    assert found.words.errors == found.characters.errors == 1


def test_any_other_language_has_words_but_where_none_are_separated() -> None:
    assert (metric("other:cy"), metric("other:th"), metric("other:yue")) == ("WER", "CER", "CER")
    assert foreign_script("Здравствуйте", "other:cy") is None
    assert not lacks_own_script("hello", "other:hi")


@pytest.mark.parametrize("given", ["xx", "other:", "other:en", "other:CY", "other:abcd", "EN", "english"])
def test_what_names_no_language_is_refused_with_those_that_there_are(given: str) -> None:
    known = "must be en, ar, de, es, ja, ko, tl, uk, vi, zh, or other:CODE for any other, such as other:cy"
    with pytest.raises(ConfigError, match=re.escape(f"--language {given}: {known}")):
        run_config(given)
    assert known in refusal("transcribe", "--model-id", "packaged:moonshine-tiny", "--language", given, "--audio", "a.wav")


# --- checkpoints of a language ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["moonshine-tiny-ja", "moonshine-base-ja", "Moonshine-Streaming-Small-JA"])
def test_a_checkpoint_that_names_a_language_is_refused_in_another(random_v1: LoadedModel, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.symlink_to(random_v1.checkpoint.folder)
    checkpoint = resolve(str(folder))
    with pytest.raises(ConfigError, match=r"--language en: .* is for Japanese; give --language ja, or another --model-id"):
        load_model(checkpoint, random_v1.device, "float32")
    assert load_model(checkpoint, random_v1.device, "float32", "ja").language == "ja"


def test_a_language_in_the_configuration_counts(random_v1: LoadedModel, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(random_v1.checkpoint.folder, tmp_path / "mine"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"language": "fr"}))
    with pytest.raises(ConfigError, match=r"is for the language 'fr'; give --language other:fr, or another --model-id"):
        load_model(resolve(str(folder)), random_v1.device, "float32", "es")


def test_a_checkpoint_that_a_run_has_made_is_of_the_run_s_language(random_v1: LoadedModel, tmp_path: Path) -> None:
    speech = load_model(random_v1.checkpoint, random_v1.device, "float32", "other:cy")
    provenance = Provenance(
        base_model_id="x",
        base_revision=None,
        base_sha256=speech.checkpoint.sha256,
        audio=AudioSettings(),
        decode=DecodeSettings(tokens_per_second=13),
        text_style="none",
        normaliser=normaliser_version("other:cy"),
        language="other:cy",
    )
    save_checkpoint(attach(speech, AdapterConfig(method="full")), tmp_path, provenance)
    assert json.loads((tmp_path / "config.json").read_text())["language"] == "cy"
    assert load_model(resolve(str(tmp_path)), random_v1.device, "float32", "other:cy").language == "other:cy"


def test_packaged_weights_are_english(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"--language es: packaged:moonshine-tiny is for English; give --language en"):
        load_model(tiny.checkpoint, tiny.device, "float32", "es")


def test_any_other_name_says_nothing(random_v1: LoadedModel) -> None:
    assert load_model(random_v1.checkpoint, random_v1.device, "float32", "ko").language == "ko"


# --- the commands -------------------------------------------------------------------------------------------------------------------------


def test_a_language_that_is_not_known_is_refused(tmp_path: Path) -> None:
    line = refusal("experiment", "--model-id", "x", "--language", "fr", "--output-dir", tmp_path / "run")
    assert "--language fr: must be en, ar, de, es, ja, ko, tl, uk, vi, zh, or other:CODE for any other, such as other:cy" in line


def test_a_run_in_japanese_is_judged_by_characters_from_end_to_end(
    random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path
) -> None:
    """Random weights, and texts that nobody said: what counts is which rate every stage computes and names."""
    model = tmp_path / "moonshine-tiny-ja"
    model.symlink_to(random_v1.checkpoint.folder)
    texts = ["電話を切らずにお待ちください", "ガス、NHKです。", "二番を押してください", "ありがとう"]
    spoken = [replace(clip, text=texts[index % 4]) for index, clip in enumerate(clips)]
    sets = manifests(tmp_path / "sets", spoken)
    run = tmp_path / "run"
    options = ("--model-id", model, *sets.flags(), *QUICK, *ANY_VERDICT, "--tokens-per-second", 1, "--output-dir", run)
    assert "lines 1, 3, 4, 5: text: is in Hiragana letters, which English does not use" in refusal("experiment", *options)
    assert "text: is in Hiragana letters, which Mandarin does not use" in refusal("experiment", *options, "--language", "zh")
    assert not run.exists()
    found = moonshine_lora("experiment", *options, "--language", "ja")
    assert found.code == 0, found.err
    assert "character error rate" in " ".join(found.out.split())
    record = read_record(run)
    assert record.domain is not None
    assert record.verdict is not None
    score = record.domain.tuned.score
    expected = [len(normalise(utterance.text or "", "ja").split()) for utterance in spoken[7:10]]
    assert [row.words.reference_length for row in score.utterances] == expected
    assert score.words == score.characters
    assert "domain CER" in record.verdict.sentence
    assert record.text_style == "none"
    for name in ("report.md", "report.html", "lora_adapter/README.md"):
        text = (run / name).read_text()
        assert "CER" in text, name
        assert not re.search(r"\bWER\b|\bword error", text), name
    assert not re.search(r"\bWER\b", found.out + found.err)
    command = ("transcribe", "--model-id", model, "--manifest", sets.domain, "--adapter-dir", run / "lora_adapter", "--device", "cpu")
    said = moonshine_lora(*command)
    assert said.code == 0, said.err
    assert said.err.splitlines()[-2] == f"CER {100 * score.wer:.2f} % over 3 utterances"
    assert "was trained for Japanese; leave the flag out" in refusal(*command, "--language", "en")
    compared = moonshine_lora("compare", run)
    assert "domain CER" in compared.out
    assert "WER" not in compared.out


def test_transcribing_names_the_metric_of_the_language(random_v1: LoadedModel, clips: list, tmp_path: Path) -> None:  # type: ignore[type-arg]
    source = clips[0].audio.path
    (tmp_path / source.name).write_bytes(source.read_bytes())
    file = write_rows(tmp_path / "set.jsonl", [{"audio": source.name, "text": SPOKEN["zh"], "id": "one"}])
    command = ("transcribe", "--model-id", random_v1.checkpoint.folder, "--manifest", file, "--device", "cpu", "--tokens-per-second", 1)
    found = moonshine_lora(*command, "--language", "zh")
    assert found.code == 0, found
    assert "CER" in found.out
    assert "WER" not in found.out + found.err
    assert "is in Chinese letters, which English does not use" in refusal(*command)


# --- marks --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "written", "plain"),
    [
        ("ar", "كِتَابٌ جَدِيدٌ", "كتاب جديد"),
        ("ar", "كـــتاب", "كتاب"),
        ("ar", "\u200fكتاب\u200e", "كتاب"),  # noqa: RUF001
        ("ar", "هٰذا", "هذا"),
        ("uk", "за́мок на горі́", "замок на горі"),  # noqa: RUF001
        ("uk", "п'ять м’ячів", "пʼять мʼячів"),  # noqa: RUF001
        ("uk", unicodedata.normalize("NFD", "їжак йде"), "їжак йде"),
        ("ko", unicodedata.normalize("NFD", "안녕하세요 세계"), "안녕하세요 세계"),
        ("ja", unicodedata.normalize("NFD", "がぎパピ"), "が ぎ パ ピ"),
        ("ja", "か゛", "が"),
        ("ja", "ｶﾞｯﾂ", "ガ ッ ツ"),
        ("vi", unicodedata.normalize("NFD", "Tiếng Việt đẹp lắm"), "tiếng việt đẹp lắm"),
        ("es", unicodedata.normalize("NFD", "¿Qué tal, niño?"), "qué tal niño"),
        ("zh", "你\ufe0f好", "你 好"),
    ],
)
def test_a_word_written_with_its_marks_is_the_word(language: Language, written: str, plain: str) -> None:
    assert normalise(written, language) == plain
    assert normalise(plain, language) == plain
    found = score(language, (plain, written))
    assert found.words.errors == found.characters.errors == 0


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [("uk", "й", "и"), ("ja", "が", "か"), ("vi", "ma", "má"), ("es", "año", "ano"), ("ko", "가", "각"), ("ar", "أب", "اب")],
)
def test_letters_that_differ_by_a_mark_of_their_own_stay_different(language: Language, one: str, other: str) -> None:
    assert normalise(one, language) != normalise(other, language)


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_texts_of_the_same_letters_are_equal_raw_too_however_they_are_encoded(language: Language) -> None:
    text = "año だ 각 ế й é"
    found = score(language, (text, unicodedata.normalize("NFD", text)))
    assert found.raw_words.errors == found.raw_characters.errors == found.words.errors == 0
