"""Error counts and rates, what chance can do, and the verdict. No model."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora.scoring.counts import score_utterance

__all__ = ["score_utterance"]


def __getattr__(name: str) -> Any:
    """Loaded when it is asked for: settings need the gate's section alone."""
    if name not in __all__:
        raise AttributeError(f"module 'lora.scoring' has no attribute {name!r}")
    from lora.scoring.counts import score_utterance

    return score_utterance
