"""The only module that names Moonshine's classes: model, processor, device, precision, encoder, decoder and loss.

Two generations are handled here and nowhere else. v1 (`moonshine`) normalises over time, so its encoder runs on clips without
padding up to the last convolution; v2 (`moonshine_streaming`) works on 80-sample frames with sliding windows and must always be
given a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, MoonshineForConditionalGeneration, MoonshineStreamingForConditionalGeneration, PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.moonshine_streaming.modeling_moonshine_streaming import sliding_window_mask_function

from lora.audio import Waveform
from lora.checkpoint import Checkpoint
from lora.config import Device, Precision
from lora.errors import AudioError, CheckpointError, ConfigError
from lora.files import read_json
from lora.units import SAMPLE_RATE_HZ, Samples, seconds

IGNORED_LABEL = -100
"""Label value that takes no part in the loss: padding, by position and never by token id, for pad and EOS share an id in v1."""

MIN_SAMPLES = Samples(895)
"""Shortest clip that gives one v1 encoder frame: 127 + 64 * (7 + 3 * (3 - 1) - 1) samples through the three convolutions."""

FRAME_SAMPLES = Samples(80)
"""v2 works on whole frames of 5 ms."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Encoder output of a batch: `hidden` [batch, frames, width]; `mask` bool [batch, frames], true where a clip has sound.

    Where no clip is padded there is no mask, and attention takes its fastest kernel.
    """

    hidden: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Speech:
    """A loaded checkpoint with its processor. `model` may carry a LoRA adapter, whose layers replace the adapted ones in place."""

    model: PreTrainedModel
    processor: Any
    checkpoint: Checkpoint
    device: torch.device
    precision: Precision

    @property
    def streaming(self) -> bool:
        return bool(self.model.config.model_type == "moonshine_streaming")

    @property
    def encoder(self) -> Any:
        return self.model.get_encoder()

    @property
    def decoder(self) -> Any:
        return self.model.get_decoder()

    @property
    def head(self) -> Any:
        """Decoder width to vocabulary logits."""
        return self.model.get_output_embeddings()

    @property
    def start_id(self) -> int:
        return int(self.model.config.decoder_start_token_id)

    @property
    def end_id(self) -> int:
        return int(self.model.config.eos_token_id)

    def labels(self, text: str) -> list[int]:
        """Token ids of a training target: the text, then EOS. The start token is the decoder's first input, not a label."""
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.end_id]

    def text(self, tokens: Sequence[int]) -> str:
        decoded: str = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return decoded.strip()


def choose_device(device: Device) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU. Raises `ConfigError` for one that is absent."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available[device]:
        there = ", ".join(name for name, present in available.items() if present)
        raise ConfigError(f"--device {device}: this machine has none that PyTorch {torch.__version__} can use; available: {there}")
    return torch.device(device)


def load_speech(checkpoint: Checkpoint, device: torch.device, precision: Precision) -> Speech:
    """Loads model and processor in evaluation mode, no parameter requiring a gradient.

    Raises `CheckpointError` when weights and configuration do not fit together.
    """
    classes: dict[str, Any] = {
        "moonshine": MoonshineForConditionalGeneration,
        "moonshine_streaming": MoonshineStreamingForConditionalGeneration,
    }
    kind = read_json(checkpoint.folder / "config.json", error=CheckpointError)["model_type"]  # resolve() has checked it
    model, report = classes[kind].from_pretrained(
        checkpoint.folder,
        dtype=DTYPES[precision],
        attn_implementation="sdpa",
        ignore_mismatched_sizes=True,  # reported below, with the other reasons
        output_loading_info=True,
    )
    absent = sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"])
    if absent:
        raise CheckpointError(f"{checkpoint.folder}: {len(absent)} weights are missing or of another shape, among them {absent[0]}")
    if model.config.decoder_start_token_id is None or model.config.eos_token_id is None:
        raise CheckpointError(f"{checkpoint.folder}/config.json: decoder_start_token_id and eos_token_id must be set")
    model.requires_grad_(False)
    model.eval()
    processor = load_processor(checkpoint.folder)
    return Speech(model.to(device), processor, checkpoint, device, precision)


def load_processor(folder: Path) -> Any:
    """The processor of a checkpoint or of a run's `processor/` folder. Raises `CheckpointError` when it is not 16 kHz."""
    processor = AutoProcessor.from_pretrained(folder)
    rate_hz = processor.feature_extractor.sampling_rate
    if rate_hz != SAMPLE_RATE_HZ:
        raise CheckpointError(f"{folder}: the processor wants {rate_hz} Hz; Moonshine takes {SAMPLE_RATE_HZ} Hz")
    return processor


def encode(speech: Speech, waveforms: Sequence[Waveform]) -> Encoded:
    """Encoder output of each clip as if it were alone, padded to the longest only after what mixes over time.

    Keeps gradients when the encoder is trained. Raises `AudioError` for a clip that is too short for a single frame.
    """
    clips = [_input_values(speech, samples) for samples in waveforms]
    if speech.streaming:
        return _encode_streaming(speech, clips)
    return _encode_v1(speech, clips)


def _input_values(speech: Speech, samples: Waveform) -> Tensor:
    """`[samples]` on the model's device, as the checkpoint's own feature extractor gives it."""
    if samples.shape[-1] < MIN_SAMPLES:
        raise AudioError(f"a clip of {seconds(samples.shape[-1]):.3f} s is too short; Moonshine needs {seconds(MIN_SAMPLES):.3f} s")
    values = speech.processor.feature_extractor(samples, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt").input_values[0]
    return values.to(speech.device, DTYPES[speech.precision], non_blocking=True)  # type: ignore[no-any-return]


def _encode_v1(speech: Speech, clips: Sequence[Tensor]) -> Encoded:
    encoder = speech.encoder
    stems = [_stem_v1(encoder, clip) for clip in clips]
    hidden = nn.utils.rnn.pad_sequence(stems, batch_first=True)
    mask = _mask([stem.shape[0] for stem in stems], hidden)
    attention = create_bidirectional_mask(config=encoder.config, inputs_embeds=hidden, attention_mask=mask)
    position_ids = torch.arange(hidden.shape[1], device=hidden.device)[None]
    rotation = encoder.rotary_emb(hidden, position_ids=position_ids)
    for layer in encoder.layers:
        hidden = layer(hidden, attention_mask=attention, position_ids=position_ids, position_embeddings=rotation)
    return Encoded(encoder.layer_norm(hidden), mask)


def _stem_v1(encoder: Any, clip: Tensor) -> Tensor:
    """Convolutions and the group norm over time, for one clip: `[samples]` to `[frames, width]`."""
    hidden = torch.tanh(encoder.conv1(clip[None, None]))
    hidden = encoder.groupnorm(hidden)
    hidden = nn.functional.gelu(encoder.conv2(hidden))
    hidden = nn.functional.gelu(encoder.conv3(hidden))
    return hidden[0].T


def _encode_streaming(speech: Speech, clips: Sequence[Tensor]) -> Encoded:
    """Embeds the clips one by one: the encoder's own padded path keeps up to three frames of padding behind a clip as sound."""
    encoder = speech.encoder
    stems = [encoder.embedder(clip[None, : clip.shape[0] // FRAME_SAMPLES * FRAME_SAMPLES])[0][0] for clip in clips]
    hidden = nn.utils.rnn.pad_sequence(stems, batch_first=True)
    mask = _mask([stem.shape[0] for stem in stems], hidden)
    # Without a mask, even for a single whole clip, the sliding windows are switched off.
    present = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask
    for layer, window in zip(encoder.layers, encoder.config.sliding_windows, strict=True):
        within = sliding_window_mask_function(window)
        attention = create_bidirectional_mask(encoder.config, hidden, present, and_mask_function=within)
        hidden = layer(hidden, attention_mask=attention)
    return Encoded(encoder.final_norm(hidden), mask)


def _mask(lengths: Sequence[int], like: Tensor) -> Tensor | None:
    if min(lengths) == max(lengths):
        return None
    return torch.arange(like.shape[1], device=like.device)[None] < torch.tensor(lengths, device=like.device)[:, None]


def join(features: Sequence[Tensor]) -> Encoded:
    """A batch from single clips' encoder outputs, each `[frames, width]`."""
    hidden = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    return Encoded(hidden, _mask([f.shape[0] for f in features], hidden))


def new_cache(speech: Speech) -> EncoderDecoderCache:
    """An empty cache of self- and cross-attention keys and values."""
    config = speech.model.config
    return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))


def decode_hidden(speech: Speech, tokens: Tensor, encoded: Encoded, cache: EncoderDecoderCache | None = None) -> Tensor:
    """Decoder states `[batch, tokens, width]` for input `tokens` `[batch, tokens]`, over `cache` when one is given.

    The streaming decoder adds positions to its input in place, so it is given a copy.
    """
    hidden = encoded.hidden.clone() if speech.streaming else encoded.hidden
    output = speech.decoder(
        input_ids=tokens,
        encoder_hidden_states=hidden,
        encoder_attention_mask=encoded.mask,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return output.last_hidden_state  # type: ignore[no-any-return]


def loss_sum(speech: Speech, encoded: Encoded, labels: Tensor) -> Tensor:
    """Summed cross-entropy in nats over the labels `[batch, tokens]` that are not `IGNORED_LABEL`, in float32.

    Labels are targets as they stand: the decoder's input is the same row shifted right by one behind the start token.
    """
    start = labels.new_full((labels.shape[0], 1), speech.start_id)
    tokens = torch.cat([start, labels[:, :-1]], dim=1)
    tokens = tokens.masked_fill(tokens == IGNORED_LABEL, speech.end_id)
    hidden = decode_hidden(speech, tokens, encoded)
    wanted = labels != IGNORED_LABEL
    logits = speech.head(hidden[wanted])
    return nn.functional.cross_entropy(logits.float(), labels[wanted], reduction="sum")


def pad_labels(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """`[batch, longest]` of token ids, padded with `IGNORED_LABEL`."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=IGNORED_LABEL).to(device, non_blocking=True)


def split(encoded: Encoded) -> list[Tensor]:
    """Single clips' encoder outputs `[frames, width]`, padding cut off."""
    if encoded.mask is None:
        return list(encoded.hidden)
    return [hidden[:frames] for hidden, frames in zip(encoded.hidden, encoded.mask.sum(dim=1).tolist(), strict=True)]
