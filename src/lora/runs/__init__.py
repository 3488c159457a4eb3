"""The record of a run, and its folder. No torch."""
