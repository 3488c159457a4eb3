"""Settles how this process computes and talks, before PyTorch is imported."""

import os
import warnings

_SPIN_COUNT = "1000"
"""How long OpenMP threads spin for work before they sleep. With the default (about 300,000 turns) a second busy program on two
cores makes decoding 17 times slower, for each thread spins in the other's time; with 1000 it is 1.2 times, and as fast alone."""


def prepare_process() -> None:
    """Sets defaults that the user's environment wins over. Errors of libraries still come through, as exceptions."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # accelerate asks transformers for a property that transformers has renamed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
