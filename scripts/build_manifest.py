#!/usr/bin/env python3
"""Writes a split of a speech dataset as a manifest; see docs/manifests.md."""

import sys

from lora.console import run
from lora.corpora.commands import build_manifest

if __name__ == "__main__":
    sys.exit(run(build_manifest))
