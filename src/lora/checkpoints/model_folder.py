"""What a folder with a model or a processor may hold: no code, no pickles, and sizes that its weights have. Read without PyTorch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lora.errors import CheckpointError
from lora.system.documents import read_json

PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of files that hold weights as a pickle: reading one runs whatever code it names."""

_CODE: Final = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
"""Settings by which a folder asks transformers to import its own Python files."""

_SIZES: Final = ("hidden_size", "intermediate_size", "vocab_size")
_LAYERS: Final = "num_hidden_layers"
_HEADS: Final = ("num_attention_heads", "num_key_value_heads")


def require_no_code(folder: Path) -> None:
    """Raises `CheckpointError` for a folder of which a file asks for code, and for a file that is no JSON."""
    for file in sorted(folder.glob("*.json")):
        if file.name.startswith(("tokenizer.json", "vocab")):  # no settings, and megabytes of them
            continue
        for key, value in _settings(read_json(file, Any, CheckpointError)):
            if key in _CODE and value:
                raise CheckpointError(
                    f"{file}: asks for code of its own ({key}), which is never run; take a model that transformers knows, "
                    "or save it with `save_pretrained` of its own class"
                )


def require_no_pickle(file: Path) -> None:
    """Raises `CheckpointError` for a file of weights that is a pickle by its name."""
    if file.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{file}: is a pickle, which can run code when it is read, and is never opened; "
            "save the weights as .safetensors with the tool that made them"
        )


def require_weights(file: Path, remedy: str) -> None:
    """Raises `CheckpointError` if a file of weights is missing, and names the pickle that there is in its place."""
    if file.is_file():
        return
    for other in sorted(file.parent.iterdir()) if file.parent.is_dir() else ():
        require_no_pickle(other)
    raise CheckpointError(f"{file}: is missing; {remedy}")


def require_sizes(folder: Path, shapes: dict[str, list[int]]) -> None:
    """Raises `CheckpointError` if config.json has sizes that none of the weights have, by name and shape.

    Otherwise building the model would allocate whatever a damaged number says.
    """
    file = folder / "config.json"
    known = {size for shape in shapes.values() for size in shape}
    known |= {size // 2 for size in known}  # gated layers have both halves in one weight
    for key, value in _settings(read_json(file, Any, CheckpointError)):
        wrong = key in _SIZES and value not in known
        wrong |= key.endswith(_LAYERS) and (not isinstance(value, int) or not 0 < value <= len(shapes))
        wrong |= key.endswith(_HEADS) and value is not None and (not isinstance(value, int) or not 0 < value <= max(known, default=0))
        if wrong:
            raise CheckpointError(f"{file}: {key} is {value!r}, which fits none of the weights; copy config.json of these weights there")


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """All names and values, nested ones too."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, dict):
            yield from inner.items()
            pending += inner.values()
        elif isinstance(inner, list):
            pending += inner
