"""Keeps libraries from talking over our own progress: their bars and warnings about things that are handled here."""

import os
import warnings


def quiet_libraries() -> None:
    """Must be called before `transformers` is imported. Errors still come through, as exceptions."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # accelerate asks transformers for a property that transformers has renamed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
