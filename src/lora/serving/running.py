"""A server with its models, from loading to the end."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from socket import socket
from typing import Final

from lora.model.loading import choose_device
from lora.serving.api import Api
from lora.serving.engine import Engine
from lora.serving.forms import Limits
from lora.serving.metrics import Metrics
from lora.serving.models import Computing, open_models
from lora.serving.server import serve
from lora.serving.sockets import is_local, where
from lora.serving.wyoming import WyomingServer
from lora.system.process_settings import mute
from lora.system.terminal import say

HELD: Final = 4
"""Files of requests may take as much memory as this many of the largest."""


def run(
    options: argparse.Namespace, named: Sequence[tuple[str, str]], key: str | None, listening: socket, of_wyoming: socket | None
) -> None:
    """Loads the models and serves them until it is stopped. Raises what `open_models` raises."""
    mute("python_multipart")
    models = open_models(named, Computing(options.device, options.precision, options.eval_batch_size, options.language))
    metrics, limits = Metrics(), Limits(round(1e6 * options.max_upload_mb), options.read_timeout)
    engine = Engine(
        metrics,
        most=options.queue,
        most_bytes=HELD * limits.body_bytes,
        max_s=60 * options.max_minutes,
        device=choose_device(options.device),
    )
    with closing(engine):
        wyoming = None if of_wyoming is None else WyomingServer(engine, models, limits, metrics)
        ready = partial(_tell, list(models), key, listening, of_wyoming)
        asyncio.run(serve(Api(engine, models, limits, metrics, key), listening, wyoming, of_wyoming, ready))


def _tell(names: Sequence[str], key: str | None, listening: socket, of_wyoming: socket | None) -> None:
    say(f"http://{where(listening)}/v1: {', '.join(names)}")
    if of_wyoming is not None:
        say(f"tcp://{where(of_wyoming)}: Wyoming, {names[0]} where none is named")
    if key is None and not is_local(listening):
        say("anybody who reaches this machine can use it: --api-key-file asks for a key", sys.stderr)
