"""Recordings of any length: pieces, words with times and confidence, subtitles, and the script that was read."""
