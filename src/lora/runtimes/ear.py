"""Hears with an export by ONNX Runtime, as `lora.live.Ear` does with PyTorch: the same clips, the same drafts, the same text. No torch.

The loop is ours: runtimes that are made for these files take a whole clip and know no draft, so that each look at speech that goes on
would decode all of it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lora.audio.loading import Waveform, duration, prepare
from lora.errors import AudioError
from lora.language import Language
from lora.model.transcript import Clip, DecodeSettings, Transcript, agreement
from lora.runs.export_record import read_exported, require_unchanged
from lora.system.process import signals_wait
from lora.text.byte_tokens import whole
from lora.units import Samples, seconds

TARGET: Final = "onnx"
"""The folder of an export that holds the graphs."""

START_ID, END_ID = 1, 2
"""Tokens that the graphs start with and end at; an export to this target has no others."""

SHORTEST: Final = Samples(895)
"""A clip that gives one frame, as in PyTorch."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Memory:
    """The decoder's memory of a clip: keys and values `[1, heads, frames, width]` of its frames, by the names of the inputs."""

    heard: Mapping[str, Array]
    said: Mapping[str, Array]
    """Those of the tokens so far, `[1, heads, tokens, width]`."""

    def cut(self, count: int) -> dict[str, Array]:
        """As inputs, with the first `count` tokens: those behind were guessed and not said."""
        return {**self.heard, **{name: np.ascontiguousarray(held[:, :, :count]) for name, held in self.said.items()}}


class OnnxEar:
    """An export that hears one clip at a time."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of an export, with its `export.json`. Raises `OnDeviceError` when it is none, or its files are others."""
        with signals_wait():
            from tokenizers import Tokenizer

        exported = read_exported(folder)
        require_unchanged(folder, TARGET, exported)
        self.language: Language = exported.language
        self._audio = exported.audio
        self._decode = DecodeSettings(tokens_per_second=exported.tokens_per_second)
        self._encoder = _session(folder / TARGET / "encoder_model.onnx", laid_out=True)
        self._decoder = _session(folder / TARGET / "decoder_model_merged.onnx", laid_out=False)
        self._tokenizer: Any = Tokenizer.from_file(str(folder / TARGET / "tokenizer.json"))
        self._outputs = [output.name for output in self._decoder.get_outputs()]
        inputs = {one.name: one.shape for one in self._decoder.get_inputs() if one.name.startswith("past_key_values.")}
        self._nothing = {name: np.zeros((1, shape[1], 0, shape[3]), dtype=np.float32) for name, shape in inputs.items()}

    def encode(self, samples: Waveform) -> Array:
        """Encoder output `[1, frames, width]` of 16 kHz mono. Raises `AudioError` when it is too short or not finite."""
        if samples.shape[-1] < SHORTEST:
            raise AudioError(f"a clip of {seconds(samples.shape[-1]):.3f} s is too short; Moonshine needs {seconds(SHORTEST):.3f} s")
        hidden: Array = self._encoder.run(None, {"input_values": prepare(samples, self._audio, "the microphone")[None]})[0]
        return hidden

    def decode(self, encoded: Array, samples: Waveform, draft: Sequence[int] = ()) -> Transcript:
        """The transcript of the clip; a `draft`, such as the tokens of a shorter part of it, saves time and changes nothing."""
        row = [*draft, END_ID]
        own, memory = self._first([START_ID, *draft], encoded)
        clip = Clip(own[: agreement(row, own) + 1], self._decode.cap(duration(samples)), draft)
        clip.cut(END_ID)
        while not clip.ended(END_ID):
            guess = clip.guess()
            own, memory = self._following([clip.said[-1], *guess], encoded, memory, len(clip.said))
            clip.hear(own[: agreement(guess, own) + 1], END_ID)
        return clip.transcript(END_ID, self._text)

    def __call__(self, samples: Waveform, draft: Sequence[int] = ()) -> Transcript:
        return self.decode(self.encode(samples), samples, draft)

    def _first(self, tokens: Sequence[int], encoded: Array) -> tuple[list[int], Memory]:
        """The likeliest token after each of the first ones."""
        best, present = self._run(tokens, encoded, self._nothing, self._outputs)
        heard = {name: held for name, held in present.items() if ".encoder." in name}
        return best, Memory(heard, {name: held for name, held in present.items() if name not in heard})

    def _following(self, tokens: Sequence[int], encoded: Array, memory: Memory, count: int) -> tuple[list[int], Memory]:
        """The same for tokens that follow the first `count`, the start token among these."""
        own = [name for name in self._outputs if ".encoder." not in name]
        best, present = self._run(tokens, encoded, memory.cut(count), own)
        return best, Memory(memory.heard, present)

    def _run(
        self, tokens: Sequence[int], encoded: Array, past: Mapping[str, Array], outputs: Sequence[str]
    ) -> tuple[list[int], dict[str, Array]]:
        given = {
            "input_ids": np.asarray([tokens], dtype=np.int64),
            "encoder_hidden_states": encoded,
            "use_cache_branch": np.asarray([past is not self._nothing]),
            **past,
        }
        logits, *present = self._decoder.run(outputs, given)
        names = [name.replace("present.", "past_key_values.") for name in outputs[1:]]
        return logits[0].argmax(axis=-1).tolist(), dict(zip(names, present, strict=True))

    def _text(self, tokens: Sequence[int]) -> str:
        spelled = whole(tokens, self._tokenizer.id_to_token, self._tokenizer.token_to_id)
        text: str = self._tokenizer.decode(spelled, skip_special_tokens=True)
        return text.strip()


def _session(file: Path, *, laid_out: bool) -> Any:
    """`laid_out` keeps weights as products read them fastest: of a decoder both branches would, so that they would be there three times."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the processor is free for others between two calls
    options.add_session_config_entry("session.disable_prepacking", "0" if laid_out else "1")
    options.enable_cpu_mem_arena = False  # it would keep the most that a look has taken
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
