"""Atomic writes and hashes under the name that scripts know; `lora.system.files` has them."""

from lora.system.files import atomic_file, atomic_folder, sha256_bytes, write_json, write_jsonl

__all__ = ["atomic_file", "atomic_folder", "sha256_bytes", "write_json", "write_jsonl"]
