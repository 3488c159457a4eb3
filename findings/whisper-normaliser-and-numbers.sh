#!/usr/bin/env bash
# whisper-normalizer 0.1.15 (Whisper's own English rules): what is written in digits and what is said in words do not always meet.
#
# The normaliser is used so that "20" and "twenty" count as the same. Digits said one by one are joined when they are words and stay
# apart when they are digits, times differ, and on the other hand a minus sign and the currency of a single unit are lost, so that
# different amounts become equal. An error rate over such text can be 100 % for a perfect transcript, and 0 % for a wrong one.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check whisper-normalizer==0.1.15
"$folder/venv/bin/python" - <<'P'
from importlib.metadata import version

from whisper_normalizer.english import EnglishTextNormalizer

normalise = EnglishTextNormalizer()
print("whisper-normalizer", version("whisper-normalizer"))


def compare(one, other, equal):
    left, right = normalise(one), normalise(other)
    print(f"  {one!r} -> {left!r}; {other!r} -> {right!r}: {'equal' if left == right else 'different'}")
    assert (left == right) == equal, (one, other, left, right)


print("The same words, in digits and spelled out, that do not meet:")
compare("3 0 2 1", "Three, zero, two, one.", equal=False)
compare("12:33", "twelve thirty three", equal=False)
compare("e-mail", "email", equal=False)
print("Different amounts that become equal:")
compare("-5", "five", equal=True)
compare("one dollar", "one euro", equal=True)
print("And what does meet, for comparison:")
compare("20", "twenty", equal=True)
P
