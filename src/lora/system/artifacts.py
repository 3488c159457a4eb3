"""What a run leaves in its folder, by name: the one list, for those that write it and those that look for it."""

from typing import Final

ADAPTER_FOLDER: Final = "lora_adapter"
CHECKPOINT_FOLDER: Final = "checkpoint"
"""In place of an adapter, where all weights were trained."""

PROCESSOR_FOLDER: Final = "processor"

RECORD_FILE: Final = "record.json"
CONFIG_FILE: Final = "config.toml"
LOG_FILE: Final = "log.jsonl"
MARKDOWN_FILE: Final = "report.md"
HTML_FILE: Final = "report.html"

EXPERIMENT_METRICS_FILE: Final = "experiment_metrics.json"
REAL_METRICS_FILE: Final = "real_metrics.json"
"""That of `lora.runners.real_small`."""

STATES_FOLDER: Final = "checkpoints"
"""States of training, while a run is not finished."""

LOCK_FILE: Final = "run.lock"
