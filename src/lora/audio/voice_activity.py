"""Whether somebody speaks: Silero's voice activity model, for live sound frame by frame and for whole recordings."""

import importlib.metadata
import threading
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from lora.audio.loading import Waveform
from lora.units import Samples

FRAME: Final = Samples(512)
"""The voice activity model judges 32 ms at a time, each with the 4 ms before it."""

CONTEXT: Final = Samples(64)

HEARD: Final = 0.35
"""Probability from which a frame may be speech. The third frame of a recording reaches 0.8 in each of 1936 clips of three corpora, and
0.1 at most in noise, hum, tones, clicks and silence."""

HEARD_FRAMES: Final = 3
_LOUD: Final = 0.5
"""Peak to which a recording is amplified before it counts as free of speech: the model misses very quiet voices."""

_USUAL_RMS: Final = 0.1
"""Level of speech that the model was trained on, about: -20 dB."""

_LEAST_RMS: Final = 1e-4
"""What is quieter stays so: -80 dB is below the noise of 16-bit samples through any microphone."""

_RISE: Final = 10 ** (3 / 20)
_FALL: Final = 10 ** (-0.1 / 20)
"""Of the level, from one frame to the next: 3 dB up, and 3 dB down in a second."""


class VoiceActivity:
    """Silero's voice activity model. It keeps what it heard before, so it belongs to one stream of sound."""

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(_model(), options, providers=["CPUExecutionProvider"])
        self.reset()

    def reset(self) -> None:
        """Forgets what was heard."""
        self._hidden = self._cell = np.zeros((1, 1, 128), dtype=np.float32)
        self._context = np.zeros(CONTEXT, dtype=np.float32)

    def __call__(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probability of speech in each of the frames `[frames, FRAME]` that follow those heard before."""
        contexts = np.concatenate([self._context[None], frames[:-1, -CONTEXT:]])
        self._context = frames[-1, -CONTEXT:].copy()
        values, self._hidden, self._cell = self._session.run(
            ["speech_probs", "hn", "cn"],
            {"input": np.concatenate([contexts, frames], axis=1), "h": self._hidden, "c": self._cell},
        )
        probabilities: npt.NDArray[np.float32] = values.reshape(-1)
        return probabilities


def _model() -> bytes:
    """Its file, by the list of the package's files: importing the package, even to find its data, imports PyTorch."""
    name = "silero_vad/data/silero_vad_16k_sequence.onnx"
    return Path(str(importlib.metadata.distribution("silero-vad").locate_file(name))).read_bytes()


class LevelledActivity(VoiceActivity):
    """Voice activity of live sound at any level: a frame is judged as it is and brought to a usual level; the likelier one counts."""

    def __init__(self) -> None:
        self._levelled = VoiceActivity()
        super().__init__()

    def reset(self) -> None:
        """Forgets what was heard, and how loud."""
        super().reset()
        self._levelled.reset()
        self._level = _LEAST_RMS

    def __call__(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """As that of `VoiceActivity`."""
        brought = np.stack([frame * np.float32(_USUAL_RMS / self._level_at(frame)) for frame in frames]).clip(-1.0, 1.0)
        return np.maximum(super().__call__(frames), self._levelled(brought))

    def _level_at(self, frame: npt.NDArray[np.float32]) -> float:
        """How loud it is lately. A click, which is over at once, hardly changes that."""
        rms = float(np.sqrt(np.square(frame, dtype=np.float64).mean()))
        self._level = min(max(rms, self._level * _FALL, _LEAST_RMS), self._level * _RISE)
        return self._level


def holds_speech(samples: Waveform) -> bool:
    """Whether a recording at 16 kHz may hold speech, as it is or amplified to a usual level."""
    peak = float(np.abs(samples).max(initial=0.0))
    return peak > 0 and (_heard(samples) or _heard(samples * np.float32(_LOUD / peak)))


_own = threading.local()


def _activity() -> VoiceActivity:
    """This thread's model: two recordings at a time would mix."""
    if not hasattr(_own, "activity"):
        _own.activity = VoiceActivity()
    activity: VoiceActivity = _own.activity
    return activity


def _heard(samples: Waveform) -> bool:
    activity = _activity()
    activity.reset()
    count = max(-(-len(samples) // FRAME), HEARD_FRAMES)
    padded = np.zeros(count * FRAME, dtype=np.float32)
    padded[: len(samples)] = samples
    return bool(np.sort(activity(padded.reshape(count, FRAME)))[-HEARD_FRAMES] >= HEARD)
