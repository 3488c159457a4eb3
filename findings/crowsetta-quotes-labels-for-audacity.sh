#!/usr/bin/env bash
# crowsetta writes Audacity label tracks with quotes around labels, which Audacity takes for words.
#
# A label track has tabs between its cells and no quoting at all: Audacity shows a label as it stands. crowsetta writes it through a CSV
# writer, so a label with quotes gets quotes around it and those inside doubled. Its own reader takes them off again: only the other
# program sees them.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "crowsetta==5.1.2"
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import sys

import crowsetta
import numpy as np

LABEL = 'she said "hi"'
form = crowsetta.formats.seq.AudSeq
form(np.array([1.0]), np.array([2.5]), np.array([LABEL]), annot_path="talk.txt").to_file("talk.txt")
with open("talk.txt", encoding="utf-8") as stream:
    shown = stream.read().rstrip("\n").split("\t")[2]
print(f"crowsetta 5.1.2: the label {LABEL} stands in the file, and in Audacity, as {shown}")
print(f"its own reader says {form.from_file('talk.txt').labels[0]}")
sys.exit(0 if shown != LABEL and form.from_file("talk.txt").labels[0] == LABEL else 1)
PYTHON
