"""A search over the settings of a run, on dev and guard alone."""
