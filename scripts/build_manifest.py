#!/usr/bin/env python3
"""Writes a split of a speech dataset as a manifest; see docs/manifests.md."""

from lora.console import end, run
from lora.corpora.commands import build_manifest

if __name__ == "__main__":
    end(run(build_manifest))
