#!/usr/bin/env python3
"""Writes domain speech as a manifest: a dataset, a folder or a table; see docs/manifests.md."""

from lora.console import end, run
from lora.corpora.commands import build_domain_manifest

if __name__ == "__main__":
    end(run(build_domain_manifest))
