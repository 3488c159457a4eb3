"""Encoded sound to 16 kHz mono samples, and what varies them."""
