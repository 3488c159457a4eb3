"""Opens the default microphone and writes what it hears: `python hear.py SECONDS OUTPUT.npz [--unrecorded]`.

A process of its own, for the sound library reads its environment when it is imported.
"""

import json
import sys
import threading
import time

import numpy as np
from lora_cli.events import Problem
from lora_cli.microphone import Microphone, find

seconds, output = float(sys.argv[1]), sys.argv[2]
heard: list[np.ndarray] = []
peaks: list[float] = []
problems: list[Problem] = []
first = threading.Event()


def hear(samples: np.ndarray) -> bool:
    heard.append(samples)
    first.set()
    return "--unrecorded" not in sys.argv


microphone = Microphone(find(None), hear, peaks.append, problems.append)
first.wait(10)
print("ready", flush=True)
time.sleep(seconds)
microphone.close()
told = json.dumps([problem.message for problem in problems])
np.savez(output, samples=np.concatenate(heard), peaks=peaks, problems=told, overflows=microphone.overflows)
