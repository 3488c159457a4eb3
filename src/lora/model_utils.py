"""The functions that load a Moonshine model, under the name that scripts know; `lora.model.loading` has them."""

from lora.model.loading import LoadedModel, choose_device, load_model, load_processor

__all__ = ["LoadedModel", "choose_device", "load_model", "load_processor"]
