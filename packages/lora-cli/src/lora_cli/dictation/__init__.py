"""Dictation into other programs: a service that hears, small commands that a hotkey starts, and ways to deliver text."""
