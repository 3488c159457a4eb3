"""The published streaming checkpoints' configurations, to make models of random weights from."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    MoonshineStreamingConfig,
    MoonshineStreamingEncoderConfig,
    MoonshineStreamingForConditionalGeneration,
    MoonshineStreamingProcessor,
)

from lora.checkpoints.checkpoint import resolve
from lora.model.loading import LoadedModel, load_model

SPREAD = 0.05
"""Standard deviation of random weights: at the default 0.02 deep models hardly depend on their input."""


@dataclass(frozen=True)
class Size:
    """What differs between the published sizes. Everything else is transformers' default, or follows."""

    encoder_width: int
    decoder_width: int
    layers: int
    heads: int
    head_width: int
    parameters: int
    """Millions, as published: without the head, which these models do not tie to the embedding."""

    @property
    def windows(self) -> list[list[int]]:
        """The first two and the last two layers look ahead."""
        return [[16, 4 if index in (0, 1, self.layers - 2, self.layers - 1) else 0] for index in range(self.layers)]

    def config(self) -> MoonshineStreamingConfig:
        same = {"num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.heads}
        shared = same | {"head_dim": self.head_width, "initializer_range": SPREAD}
        encoder = MoonshineStreamingEncoderConfig(
            hidden_size=self.encoder_width, intermediate_size=4 * self.encoder_width, sliding_windows=self.windows, **shared
        )
        return MoonshineStreamingConfig(
            encoder_config=encoder,
            hidden_size=self.decoder_width,
            intermediate_size=4 * self.decoder_width,
            decoder_start_token_id=1,
            **shared,
        )


STREAMING = {
    "tiny": Size(320, 320, 6, 8, 40, 34),
    "small": Size(620, 512, 10, 8, 64, 123),
    "medium": Size(768, 640, 14, 10, 64, 245),
}


def write_streaming(size: str, like: LoadedModel, folder: Path) -> Path:
    """A checkpoint folder of that size with random weights, and the tokenizer of `like`."""
    torch.manual_seed(3)
    MoonshineStreamingForConditionalGeneration(STREAMING[size].config()).save_pretrained(folder)
    MoonshineStreamingProcessor(like.processor.feature_extractor, like.processor.tokenizer).save_pretrained(folder)
    return folder


def load(folder: Path) -> LoadedModel:
    return load_model(resolve(str(folder)), torch.device("cpu"), "float32")
