"""What the project changes for a whole process: environment, garbage collector, warnings, logs of libraries. Nothing else changes them.

Three settings that need PyTorch have places of their own: threads (`system.parallel.threads_each`), random seeds (`training.adapter`,
`training.loop`), and signals (`system.signals`).
"""

import gc
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, Literal

_SPIN_COUNT = "1000"
"""How long OpenMP threads spin for work before they sleep. With the default (about 300,000 turns) a second busy program on two
cores makes decoding 17 times slower, for each thread spins in the other's time; with 1000 it is 1.2 times, and as fast alone."""

_PRODUCT_PROGRAMS = "128"
"""Programs for products of one size that oneDNN keeps; each takes half a megabyte or more. With its default of 1024 a run takes 0.2 GB
more, with 256 it takes 50 MB more and no less time, and the voice engine grows for as long as an hour until it has them all; with 64
live looks take 6 to 9 % longer."""

ENVIRONMENT: Final = MappingProxyType(
    {
        "GOMP_SPINCOUNT": _SPIN_COUNT,
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": _PRODUCT_PROGRAMS,
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' own bars too
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
)
"""Variables that libraries read when they are imported or first used. Those that the user has set win."""

GC_OBJECTS = 50_000
"""New objects between two rounds of garbage collection. With Python's 700 to 2000 they take a tenth of the time that importing PyTorch
and transformers takes: half a million objects that stay."""

_LOG_LEVELS: Final[Mapping[str, int | str]] = MappingProxyType(
    {
        "datasets": "CRITICAL",  # it logs what it then raises, which becomes one line here
        "huggingface_hub": "ERROR",
        "optuna": "ERROR",
        "python_multipart": 51,  # above CRITICAL: it would quote what clients send
    }
)


@contextmanager
def process_settings() -> Iterator[None]:
    """Changes, for the block, what this module names; entered before PyTorch is imported.

    - `ENVIRONMENT` gets its defaults. They stay after the block, because libraries and child processes read them at any time.
    - The garbage collector runs less often (`GC_OBJECTS`). Afterwards it runs as before.
    - A warning of accelerate is ignored. Afterwards warnings are filtered as before.

    Errors of libraries still arrive as exceptions. Also a decorator: `@process_settings()`.
    """
    for name, value in ENVIRONMENT.items():
        set_default(name, value)
    threshold = gc.get_threshold()
    gc.set_threshold(GC_OBJECTS)
    try:
        with warnings.catch_warnings():
            # accelerate asks transformers for a property that transformers has renamed
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            yield
    finally:
        gc.set_threshold(*threshold)


def set_default(name: str, value: str) -> None:
    """Sets an environment variable that the user has not set, for the rest of the process."""
    os.environ.setdefault(name, value)


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable for the block, for a library that reads it then."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def mute(library: Literal["datasets", "huggingface_hub", "optuna", "python_multipart"]) -> None:
    """Silences a library's log below its level in `_LOG_LEVELS`. Call it after the import: some libraries set their level then."""
    import logging  # takes longer to import than all that commands started by a hotkey need from here

    logging.getLogger(library).setLevel(_LOG_LEVELS[library])


def keep_objects() -> None:
    """Exempts all objects that exist by now from garbage collection: a round through PyTorch's takes 50 ms."""
    gc.freeze()
