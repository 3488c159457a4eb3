"""Fine-tune Moonshine speech recognition with LoRA and prove that it got better.

`load` gives a model that transcribes files, `experiment` runs training from settings.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora.api import Model, experiment, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "experiment", "load"]


def __getattr__(name: str) -> Any:
    """Loads PyTorch only when a name is used: `import lora` alone stays quick."""
    if name not in ("Model", "experiment", "load"):
        raise AttributeError(f"module 'lora' has no attribute {name!r}")
    from lora.system.process_settings import process_settings

    with process_settings():  # before PyTorch is imported
        from lora import api
    return getattr(api, name)
