"""The functions that load a Moonshine model, under the name that scripts know; `lora.model.loading` has them."""

from lora.model.loading import Speech, choose_device, load_processor, load_speech

__all__ = ["Speech", "choose_device", "load_processor", "load_speech"]
