"""The model in a process of its own, and what passes to and from it."""
