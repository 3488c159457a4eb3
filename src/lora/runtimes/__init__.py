"""The on-device runtimes themselves, to transcribe with what was exported."""
