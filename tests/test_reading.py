"""Whatever stands in a JSON or TOML file, reading it ends in its value or in one line with the file, the line and the reason."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lora.dataset.manifest import Row
from lora.errors import CheckpointError
from lora.system.documents import ContentError, json_value, read_json, read_toml, toml_value

DECODE = msgspec.json.Decoder().decode

BAD_JSON = [
    (b'{"a": 1,\n "b": "caf\xe9"}', "byte 0xe9 is no UTF-8", 2),
    (b'{"a": 1,\n\n "caf\xe9": 1}', "byte 0xe9 is no UTF-8", 3),
    (b'{"a": "\xed\xa0\x80"}', "is no UTF-8", 1),
    ('{"a": 1}'.encode("utf-16"), "it is written in UTF-16", 1),
    (b'\xef\xbb\xbf{"a": 1}', "byte-order mark", 1),
    (b"[" * 100_000, "nested too deep", None),
    (b'{"meta":' + b"[" * 1200 + b"]" * 1200 + b"}", "nested too deep", None),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deep", None),
    (b'{"a": 1,\n "a": 2}', "the key 'a' stands twice", None),
    (b'{"list": [{"a": 1}, {"b": {"c": 1, "\\u0063": 2}}]}', "the key 'c' stands twice", None),
    (b'{\n"a": NaN}', "invalid character", 2),
    (b'{"a":\n\n 1', "truncated", 3),
    (b"", "it is empty", None),
    (b" \n", "it is empty", None),
    (b"{'a': 1}", "not valid JSON", 1),
    (b'{"a": "\x00"}', "invalid character", 1),
    (b'{"a": "\\ud800"}', "not valid JSON", None),
    (b'{"a": 1}\n{"a": 1}', "trailing characters", 2),
]


@pytest.mark.parametrize(("content", "reason", "line"), BAD_JSON)
def test_bad_json_is_a_reason_and_a_line(content: bytes, reason: str, line: int | None) -> None:
    with pytest.raises(ContentError) as refused:
        json_value(content, DECODE)
    assert reason in refused.value.reason
    assert refused.value.line == line or line is None
    assert len(refused.value.reason) < 200
    assert "\n" not in refused.value.reason


@pytest.mark.parametrize("content", [b"1" * 6000, b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1e999}'])
def test_a_number_too_long_is_refused(content: bytes) -> None:
    with pytest.raises((ContentError, msgspec.ValidationError), match="out of range"):
        json_value(content, DECODE)


def test_bytes_in_a_part_that_nobody_reads_are_checked_too() -> None:
    class Part(msgspec.Struct):
        audio: msgspec.Raw

    for content in (b'{"audio": "caf\xe9.wav"}', b'{"audio": 1, "other": "caf\xe9"}'):
        with pytest.raises(ContentError, match="0xe9"):
            json_value(content, msgspec.json.Decoder(Part).decode)


@pytest.mark.parametrize(
    "content",
    ['{"a": {"x": 1}, "b": {"x": 2}}', '[{"x": 1}, {"x": 1}]', '{"a": "b", "b": "a"}', '{"a\\"b": "a:", "é": "\\u00e9", "": ":"}', "3"],
)
def test_keys_of_different_objects_may_be_alike(content: str) -> None:
    assert json_value(content.encode(), DECODE) == msgspec.json.decode(content)


@pytest.mark.parametrize(
    ("content", "reason", "line"),
    [
        (b"[gate]\nrule = 'caf\xe9'", "byte 0xe9 is no UTF-8", 2),
        (b"[gate]\nrule = " + b"[" * 1200 + b"]" * 1200, "nested too deep", None),
        (b"rule = " + b"{a = " * 1200 + b"1" + b"}" * 1200, "nested too deep", None),
        (b".".join([b"a"] * 5000) + b" = 1", "nested too deep", None),
        (b"seed = " + b"1" * 5000, "too many digits", None),
        (b"seed = 0x" + b"f" * 5000, "too many digits", None),
        (b"[train]\nepochs = 1\nepochs = 2", "Cannot overwrite a value", None),
        (b"\xef\xbb\xbf[train]", "byte-order mark", 1),
        ("[train]".encode("utf-16"), "UTF-16", 1),
        (b"[train]\nepochs = \x00", "not valid TOML", 2),
        (b"a = 25:61:00", "not valid TOML", 1),
    ],
)
def test_bad_toml_is_a_reason_and_a_line(content: bytes, reason: str, line: int | None) -> None:
    with pytest.raises(ContentError) as refused:
        toml_value(content)
    assert reason in refused.value.reason
    assert refused.value.line == line or line is None


def test_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "moonshine_lora.json"
    file.write_bytes(b'{\n"a": \xff}')
    with pytest.raises(CheckpointError, match=r"moonshine_lora\.json: not valid JSON \(byte 0xff .*\), line 2$"):
        read_json(file, dict[str, Any], CheckpointError)
    file.write_text('{"a": "text"}')
    with pytest.raises(CheckpointError, match=r"moonshine_lora\.json: Expected `int`, got `str` - at `\$\[\.\.\.\]`"):
        read_json(file, dict[str, int], CheckpointError)
    with pytest.raises(CheckpointError, match="no such file"):
        read_json(tmp_path / "absent.json", dict[str, int], CheckpointError)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_toml(tmp_path, CheckpointError)


def test_damaged_rows_are_values_or_reasons() -> None:
    """Bytes changed, cut and doubled at random: no other exception ever comes out."""
    whole = '{"audio": "a.wav", "text": "où", "id": "a-1", "duration": 1.5, "meta": {"a": [1, {"b": null}]}}'.encode()
    draw, decode = random.Random(3), msgspec.json.Decoder(Row).decode
    refused = 0
    for _ in range(5000):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(content) + 1)
            content[at : at + draw.randint(0, 3)] = draw.choice([b"", bytes([draw.randrange(256)]), b'"', b"[" * 2000, whole[:at], b"\\u"])
        try:
            json_value(bytes(content), decode)
        except (ContentError, msgspec.ValidationError):
            refused += 1
    assert refused > 4000
