"""The terminal app with a scripted session, as a program for tests in a pseudo-terminal. What it was asked goes to stdout, as JSON."""

import json
import sys

from lora_cli.screen.app import MoonshineApp, run_app
from scripted import Script

from lora.console import run


class Crashing(MoonshineApp):
    """Breaks where a mistake in a handler would."""

    def action_light(self) -> None:
        raise RuntimeError("injected")


def main() -> int:
    script = Script()
    session = script.session()
    app = Crashing if "--crash" in sys.argv else MoonshineApp
    mode = next((word.removeprefix("--mode=") for word in sys.argv if word.startswith("--mode=")), "auto")
    try:
        return run_app(session, mode=mode, app_class=app)
    finally:
        print(json.dumps(script.asked), flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
