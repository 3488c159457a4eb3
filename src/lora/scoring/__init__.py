"""Error counts and rates, what chance can do, and the verdict. No model."""
