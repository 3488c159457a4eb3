#!/usr/bin/env bash
# pysubs2 reads the identifier of a WebVTT cue as words of the cue before it, and drops voices.
#
# WebVTT lets a line with a name stand above a cue's times. Nothing says that it is spoken, yet in pysubs2 it ends up in the text of the cue
# before, behind a line break, where training data made of subtitles takes it for speech. The first cue's identifier is dropped, so a short
# look at the file shows nothing. Who speaks (<v Anna>) is lost, and entities stay as they are written.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "pysubs2==1.8.1"
cat > "$place/talk.vtt" <<'VTT'
WEBVTT

opening
00:00:01.000 --> 00:00:02.000
<v Anna>Fish &amp; chips.

answer
00:00:03.000 --> 00:00:04.000
<v Ben>Yes.
VTT
"$place/venv/bin/python" - "$place/talk.vtt" <<'PYTHON'
import sys

import pysubs2

first, second = pysubs2.load(sys.argv[1])
print(f"pysubs2 {pysubs2.VERSION}")
print(f"first cue:  {first.plaintext!r}, speaker {first.name!r}")
print(f"second cue: {second.plaintext!r}, speaker {second.name!r}")
identifier, entity, voice = "answer" in first.plaintext, "&amp;" in first.plaintext, not (first.name or second.name)
print(f"the second cue's identifier is in the first one's text: {identifier}; entity kept: {entity}; voices lost: {voice}")
sys.exit(0 if identifier and entity and voice and "opening" not in first.plaintext else 1)
PYTHON
