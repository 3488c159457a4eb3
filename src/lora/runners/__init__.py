"""Commands that run the pipeline: `python -m lora.runners.experiment` and `python -m lora.runners.real_small`."""
