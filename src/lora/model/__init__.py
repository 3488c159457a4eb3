"""Moonshine as plain tensor operations over the loaded weights; greedy decoding."""
