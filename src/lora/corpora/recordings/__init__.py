"""Recordings with times beside them, as people have them: one module a form, each of which gives segments, and the cutter of all."""
