"""Opens a microphone and writes what it hears: `python hear.py SECONDS OUTPUT.npz [--unrecorded] [--lost] [--named=NAME]`.

A process of its own, for the sound library reads its environment when it is imported. With `--lost` PortAudio's word that sound was lost
before a block comes twice: no machine loses any when a test wants it to.
"""

import json
import sys
import threading
import time

import numpy as np
import sounddevice
from lora_cli.engine.events import Problem
from lora_cli.sound.microphone import Microphone, find

LOST = 0x2
"""PortAudio's `paInputOverflow`."""

seconds, output = float(sys.argv[1]), sys.argv[2]
heard: list[np.ndarray] = []
peaks: list[float] = []
problems: list[Problem] = []
first = threading.Event()


def hear(samples: np.ndarray) -> bool:
    heard.append(samples)
    first.set()
    return "--unrecorded" not in sys.argv


named = next((word.removeprefix("--named=") for word in sys.argv if word.startswith("--named=")), None)
microphone = Microphone(find(named), hear, peaks.append, problems.append)
first.wait(10)
if "--lost" in sys.argv:
    for flags in (LOST, 0, LOST):
        microphone._take(np.full((320, 1), 0.1, dtype=np.float32), 320, None, sounddevice.CallbackFlags(flags))
print("ready", flush=True)
time.sleep(seconds)
microphone.close()
told = json.dumps([problem.message for problem in problems])
np.savez(output, samples=np.concatenate(heard), peaks=peaks, problems=told, overflows=microphone.overflows)
