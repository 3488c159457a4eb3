"""Sound: a device at its own rate or a recording, and the cuts at pauses."""
