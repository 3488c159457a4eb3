"""Transcripts: tags and marks, the style for training, the normaliser for scoring, spoken forms of digits and units."""

from lora.text.normaliser import normalise

__all__ = ["normalise"]
