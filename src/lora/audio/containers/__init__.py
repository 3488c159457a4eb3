"""What the headers of a sound file claim, against what the file holds. Reads bytes, decodes nothing."""
