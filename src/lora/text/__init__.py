"""Transcripts: marks nobody says, the style for training, the normaliser for scoring, what digits and units are said as."""
