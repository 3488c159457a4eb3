#!/usr/bin/env bash
# praatio cannot read a TextGrid whose label looks like a field of the format, as Praat itself writes it.
#
# In a TextGrid only free-standing numbers, quoted texts and flags count; Praat passes over all else. praatio finds tiers and intervals by
# words such as "intervals [" instead, wherever they stand. A transcript that quotes such words, or speaks of them, is a valid label: Praat
# writes it and reads it again, tgt reads it, and praatio ends in an error that names no line. Short text files fail in another way.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet "praatio==6.2.2" "praat-parselmouth==0.4.7" "tgt==1.5"
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import sys

import tgt
from parselmouth.praat import call
from praatio import textgrid

LABEL = "see intervals [3]: item []:"
grid = call("Create TextGrid", 0, 5, "anna", "")
call(grid, "Insert boundary", 1, 1.0)
call(grid, "Insert boundary", 1, 2.5)
call(grid, "Set interval text", 1, 2, LABEL)
call("Text writing preferences", "UTF-8")
call(grid, "Save as text file", "long.TextGrid")
again = call("Read from file", "long.TextGrid")
print(f"Praat reads:  {call(again, 'Get label of interval', 1, 2)!r}")
print(f"tgt reads:    {[one.text for one in tgt.read_textgrid('long.TextGrid').tiers[0].annotations]}")
try:
    found = textgrid.openTextgrid("long.TextGrid", includeEmptyIntervals=False)
    outcome = str(found.getTier("anna").entries)
except Exception as error:
    outcome = f"{type(error).__name__}: {error}"
print(f"praatio 6.2.2: {outcome}")
sys.exit(0 if LABEL not in outcome and call(again, "Get label of interval", 1, 2) == LABEL else 1)
PYTHON
