#!/usr/bin/env python3
"""Merges manifests into one that holds every recording once; see docs/manifests.md."""

import sys

from lora.console import run
from lora.corpora.commands import merge_manifests

if __name__ == "__main__":
    sys.exit(run(merge_manifests))
