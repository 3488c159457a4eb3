"""The terminal voice app of moonshine-lora."""
