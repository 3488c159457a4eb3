"""`moonshine`: talk to a Moonshine model, with or without an adapter, in the terminal."""

import sys
from importlib.metadata import version

from lora.console import ArgumentParser, run


def main() -> int:
    """Entry point of the console script."""
    return run(_main)


def _main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="moonshine",
        description="Talk to a Moonshine speech model in the terminal, with or without a LoRA adapter.",
        epilog="The voice app is being built: this release answers --help and --version. `moonshine-lora transcribe` transcribes files.",
    )
    parser.add_argument("--version", action="version", version=f"moonshine {version('lora-cli')}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
