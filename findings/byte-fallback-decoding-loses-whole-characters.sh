#!/usr/bin/env bash
# tokenizers 0.22.2: decoding a sequence that stops inside a character which is spelled in bytes loses more than that character.
#
# Vocabularies with byte fallback spell a rare character as tokens such as <0xE2><0x82><0xAC>. When a transcript is cut off (a token cap)
# after one and a half such characters, one would expect the first character and a replacement mark. The ByteFallback decoder looks at
# the whole run of byte tokens at once: if the run as a whole is no UTF-8, every byte of it becomes U+FFFD, so the finished characters
# before the unfinished one are gone too, back to the last ordinary token.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.22.2
"$folder/venv/bin/python" - <<'P'
import tokenizers
from tokenizers import Tokenizer, decoders, models

vocabulary = {"<unk>": 0, "a": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

whole = tokenizer.encode("a\u20ac\u20ac").ids  # one letter and two characters of three bytes each
assert len(whole) == 7, whole
seen = [tokenizer.decode(whole[:count]) for count in range(1, 8)]
print("tokenizers", tokenizers.__version__)
for count, text in enumerate(seen, start=1):
    print(f"  first {count} of 7 tokens: {text!r}")
assert seen[3] == "a\u20ac", "a finished character alone is decoded"
assert seen[4] == "a" + 4 * "\ufffd", "with one byte of the next behind it, all four bytes become U+FFFD"
assert seen[5] == "a" + 5 * "\ufffd"
assert seen[6] == "a\u20ac\u20ac"
print("One more byte token makes a finished character disappear, until the next character is finished too.")
P
