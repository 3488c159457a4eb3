#!/usr/bin/env bash
# One flipped bit in an Ogg file: libsndfile and FFmpeg drop the whole page, and the recording is shorter, without an error.
# Valid input is made here; only one bit of one page's content is changed, as a bad disk or transfer would.
set -euo pipefail
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT
python3 -m venv "$W/venv"
"$W/venv/bin/pip" install --quiet numpy==2.4.1 soundfile==0.14.0 av==18.1.0
"$W/venv/bin/python" - <<'P'
import io
import sys

import av
import numpy as np
import soundfile

rate = 16_000
time = np.arange(8 * rate) / rate
sound = 0.3 * np.sin(2 * np.pi * (200 + 40 * time) * time) + 0.02 * np.random.default_rng(0).standard_normal(len(time))
print(f"soundfile {soundfile.__version__} with libsndfile {soundfile.__libsndfile_version__}, PyAV {av.__version__}")


def by_libsndfile(data):
    samples, rate = soundfile.read(io.BytesIO(data))
    return len(samples) / rate


def by_ffmpeg(data):
    with av.open(io.BytesIO(data), format="ogg") as file:
        stream = file.streams.audio[0]
        return sum(frame.samples for frame in file.decode(stream)) / stream.rate


shorter = []
for subtype in ("VORBIS", "OPUS"):
    stream = io.BytesIO()
    soundfile.write(stream, sound, rate, format="OGG", subtype=subtype)
    whole = stream.getvalue()
    pages = [place for place in range(len(whole)) if whole.startswith(b"OggS", place)]
    last = pages[-1]
    broken = bytearray(whole)
    broken[last + 100] ^= 1
    for name, seconds in (("libsndfile", by_libsndfile), ("FFmpeg", by_ffmpeg)):
        before, after = seconds(whole), seconds(bytes(broken))
        print(f"{subtype} by {name}: {before:.2f} s whole, {after:.2f} s with one bit of the last page flipped, no error")
        shorter.append(before - after > 0.2)
sys.exit(0 if all(shorter) else 1)
P
