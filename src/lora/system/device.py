"""What a model is computed on, and in which precision: the names that flags and settings have for them."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]
