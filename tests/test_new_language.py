"""A language without an entry here and a tokenizer of another size, as new streaming checkpoints have it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from published import STREAMING
from running import ANY_VERDICT, QUICK, ROOT, Manifests, manifests, moonshine_lora, refusal, write_rows
from transformers import AutoTokenizer, MoonshineStreamingForConditionalGeneration, MoonshineStreamingProcessor

from lora.dataset.manifest import Utterance
from lora.model.loading import LoadedModel
from lora.runs.record import read

SPEECH = ROOT.parent / "shared" / "data"
TOKENS = 12_288
LANGUAGE = ("--language", "other:cy")
WELSH = ("Arhoswch ar y llinell, os gwelwch yn dda.", "Pwyswch yr allwedd nesaf.", "Mae'r tŷ yn fawr iawn.", "Diolch yn fawr i chi.")


@pytest.fixture(scope="module")
def checkpoint(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streaming model of random weights with a tokenizer of 12,288 entries: the first of the packaged one, special tokens at the end."""
    folder = tmp_path_factory.mktemp("new") / "moonshine-streaming-tiny-cy"
    tiny.processor.tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    special = content["added_tokens"][3:]
    plain = TOKENS - len(special)
    vocabulary = {token: number for token, number in content["model"]["vocab"].items() if number < plain}
    content["model"]["vocab"] = vocabulary
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if {*pair, "".join(pair)} <= vocabulary.keys()]
    for number, token in enumerate(special, plain):
        token["id"] = number
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == TOKENS
    config = STREAMING["tiny"].config()
    config.vocab_size = TOKENS
    torch.manual_seed(5)
    MoonshineStreamingForConditionalGeneration(config).save_pretrained(folder)
    MoonshineStreamingProcessor(tiny.processor.feature_extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sets(clips: Sequence[Utterance], tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """The sounds of the clips under Welsh sentences: what the commands do is looked at, not what is learned."""
    found = manifests(tmp_path_factory.mktemp("sets"), clips)
    place = 0
    for file in (found.train, found.dev, found.domain, found.heldout, found.replay):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["text"], row["language"] = f"{WELSH[place % len(WELSH)]} {place}", "cy"
            place += 1
        write_rows(file, rows)
    return found


def test_a_checkpoint_of_the_language_asks_for_it(checkpoint: Path, sets: Manifests, tmp_path: Path) -> None:
    message = refusal("experiment", "--model-id", checkpoint, *sets.flags(), *QUICK, "--output-dir", tmp_path / "run")
    assert "is in 'cy'" in message or "'cy' in a run for English" in message
    said = refusal("transcribe", "--model-id", checkpoint, "--manifest", sets.domain, "--language", "de")
    assert f"{checkpoint} is for the language 'cy'; give --language other:cy, or another --model-id" in said


def test_references_in_capitals_are_not_counted_as_too_long(sets: Manifests, tmp_path: Path) -> None:
    """Tokenizers spell capitals in more tokens than the model's own transcripts of the same words."""
    rows = [json.loads(line) for line in sets.train.read_text().splitlines()]
    mixed = sets.train.with_name("mixed.jsonl")
    write_rows(mixed, [row | {"text": f"Mixed case {place}.", "language": "en"} for place, row in enumerate(rows)])
    general = SPEECH / "librispeech"
    found = moonshine_lora(
        *("experiment", "--model-id", "packaged:moonshine-tiny", "--train-manifest", mixed, "--domain-manifest", general / "replay.jsonl"),
        *("--heldout-manifest", general / "heldout.jsonl", "--split-by", "utterance", "--allow-outside-paths", "--dry-run"),
        *("--output-dir", tmp_path / "run"),
    )
    assert found.code == 0, found.err
    assert "need more tokens" not in found.out


def test_a_cap_that_cuts_the_references_is_refused_with_the_rate_that_they_need(checkpoint: Path, sets: Manifests, tmp_path: Path) -> None:
    """Letters that the tokenizer has no entry for are spelled in bytes, each a token."""
    rows = [json.loads(line) for line in sets.domain.read_text().splitlines()]
    many = sets.domain.with_name("many.jsonl")
    write_rows(many, [row | {"text": "ŵŷ ẅÿ ŵŷ ẅÿ " * 3 + str(place)} for place, row in enumerate(rows)])
    message = refusal("experiment", "--model-id", checkpoint, *LANGUAGE, *sets.flags(domain=many), *QUICK, "--output-dir", tmp_path / "run")
    assert "references need more tokens than --tokens-per-second 13 allows" in message
    assert "give --tokens-per-second" in message


@pytest.mark.slow
def test_it_is_trained_judged_exported_and_heard_in_the_runtime(checkpoint: Path, sets: Manifests, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (*LANGUAGE, *sets.flags(), *QUICK, *ANY_VERDICT, "--tokens-per-second", 3)
    found = moonshine_lora("experiment", "--model-id", checkpoint, *options, "--output-dir", run)
    assert found.code == 0, found.err
    record = read(run)
    assert record.domain is not None
    assert record.domain.tuned.score.normaliser.startswith("letters with their marks and digits, words only")
    assert "language: cy" in (run / "lora_adapter" / "README.md").read_text()
    exported = moonshine_lora(
        "export", "--run", run, "--to", "moonshine-voice", "merged", "--precision", "fp32", "--skip-proof", "--output", tmp_path / "export"
    )
    assert exported.code == 0, exported.err
    written = json.loads((tmp_path / "export" / "moonshine-voice" / "streaming_config.json").read_text())
    assert written["vocab_size"] == TOKENS
    own = moonshine_lora("transcribe", "--model-id", checkpoint, "--adapter-dir", run / "lora_adapter", "--manifest", sets.domain)
    heard = moonshine_lora("transcribe", "--runtime", "moonshine-voice", "--export-dir", tmp_path / "export", "--manifest", sets.domain)
    assert (own.code, heard.code) == (0, 0), own.err + heard.err
    for said, again in zip(own.out.splitlines(), heard.out.splitlines(), strict=True):
        # Random weights choose between close tokens, so rounding decides after a while; another model differs from the first on.
        agreed = next((at for at, (one, other) in enumerate(zip(said, again, strict=False)) if one != other), len(again))
        assert agreed > len(said) / 4
