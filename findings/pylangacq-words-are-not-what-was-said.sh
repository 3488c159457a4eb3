#!/usr/bin/env bash
# pylangacq's words of a CHAT file are not what was said, and its ELAN files are no XML.
#
# Whoever makes transcripts for speech recognition of words() gets text that the recording does not have: what was replaced is swapped for
# its replacement (gonna becomes going to), repeated and corrected words and fillers are gone although they are heard, and an utterance with
# words that nobody understood (xxx) looks complete. Time bullets are written into ELAN files as the control character U+0015, which XML
# does not allow: no parser reads such a file.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pylangacq==0.23.0"
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import sys
from xml.etree import ElementTree

import pylangacq

LINES = (
    ("&-uh <I want> [//] I need it .", "uh I want I need it ."),
    ("gonna [: going to] go .", "gonna go ."),
    ("it's [x 2] here .", "it's it's here ."),
    ("I saw xxx there .", "I saw (not understood) there ."),
)
body = "".join(f"*CHI:\t{line} \x15{n}000_{n}900\x15\n" for n, (line, _) in enumerate(LINES))
head = "@UTF8\n@Begin\n@Languages:\teng\n@Participants:\tCHI Target_Child\n@ID:\teng|x|CHI|||||Target_Child|||\n"
with open("talk.cha", "w", encoding="utf-8") as stream:
    stream.write(f"{head}@Media:\ttalk, audio\n{body}@End\n")
chat = pylangacq.read_chat("talk.cha")
print("pylangacq 0.23.0")
differs = []
for utterance, (line, said) in zip(chat.utterances(), LINES, strict=True):
    words = " ".join(token.word for token in utterance.tokens)
    differs.append(words != said)
    print(f"{line:32} said: {said:32} words: {words}")
(eaf,) = chat.to_elan_strs()
try:
    ElementTree.fromstring(eaf)
    broken = False
except ElementTree.ParseError as error:
    broken = True
    print(f"its ELAN file: {error}")
sys.exit(0 if all(differs) and broken else 1)
PYTHON
