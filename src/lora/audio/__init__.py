"""Encoded sound to 16 kHz mono samples, and what varies them."""

from lora.audio.loading import AudioSettings, EncodedAudio, FileAudio, InlineAudio, load

__all__ = ["AudioSettings", "EncodedAudio", "FileAudio", "InlineAudio", "load"]
