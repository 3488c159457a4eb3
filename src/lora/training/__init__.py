"""The sets of a run, the adapter, the loop."""
