"""Fine-tune Moonshine speech recognition with LoRA and prove that it got better."""

__version__ = "0.1.0"
