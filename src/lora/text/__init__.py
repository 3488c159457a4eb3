"""Transcripts: marks nobody says, the style for training, the normaliser for scoring, what digits and units are said as."""

from lora.text.normaliser import normalise

__all__ = ["normalise"]
