"""Error counts and rates, what chance can do, and the verdict. No model."""

from lora.scoring.counts import score_utterance

__all__ = ["score_utterance"]
