"""Plays the app's part of a session: runs it headless, with a clock that a test moves and no ticks but the test's."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from lora_cli.engine.events import Ended, Event, Final, Partial
from lora_cli.screen.app import TICK_S, MoonshineApp
from lora_cli.screen.keyboard import KeyboardParser
from lora_cli.screen.widgets import SERIOUS_S
from scripted import CHUNK, Script
from textual.pilot import Pilot

from lora.units import Samples, Seconds

PRESS, REPEAT, RELEASE = "\x1b[32;;32u", "\x1b[32;1:2;32u", "\x1b[32;1:3u"
KITTY, XTERM = "\x1b[?27u\x1b[0n", "\x1b[0n"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Play:
    script: Script
    app: MoonshineApp
    pilot: Pilot[None]
    clock: Clock

    async def types(self, data: str) -> None:
        """Bytes of a terminal, through the app's own parser."""
        self.clock.now += 1
        for message in KeyboardParser().feed(data):
            self.app.post_message(message)
        await self.settle()

    async def press(self, *keys: str) -> None:
        self.clock.now += 1
        await self.pilot.press(*keys)
        await self.settle()

    async def says(self, *events: Event) -> None:
        for event in events:
            self.script.emit(event)
        await self.settle()

    async def hears(self, chunks: int = 1, level: float = 0.3) -> None:
        for _ in range(chunks):
            self.script.on_samples(CHUNK)
        self.script.on_level(level)
        await self.settle()

    async def forgets(self) -> None:
        """Lets so much time pass that the status line says how things stand."""
        for _ in range(round(SERIOUS_S / TICK_S) + 1):
            self.app.tick()
        await self.settle()

    async def opens_again(self) -> None:
        """Waits until a microphone that was lost is open again, and gives sound."""
        opened = self.script.opened
        while self.script.opened == opened:
            await asyncio.sleep(0.05)
        await self.hears()

    async def settle(self) -> None:
        """Until every message and worker has done its work, and the screen shows it."""
        await self.pilot.pause()
        await asyncio.sleep(0.02)
        await self.pilot.pause()
        if self.app.is_running and self.app.ticking is not None:
            self.app.tick()
        await self.pilot.pause()

    @property
    def text(self) -> str:
        """What is on the screen, without style; a line a row."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)

    @property
    def svg(self) -> str:
        """The screen as a picture that is the same every time and loads nothing."""
        picture = re.sub(r"terminal-\d+", "terminal", self.app.export_screenshot())
        picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
        picture = picture.replace("font-family: Fira Code;", "font-family: Fira Code, DejaVu Sans Mono, monospace;")
        return "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"


@asynccontextmanager
async def playing(
    script: Script | None = None,
    *,
    mode: str = "auto",
    size: tuple[int, int] = (80, 24),
    environment: Mapping[str, str] | None = None,
    answer: str = KITTY,
) -> AsyncIterator[Play]:
    """The app on a screen of `size` columns and lines, in a terminal that gives `answer` to the probe."""
    script, clock = script or Script(), Clock()
    app = MoonshineApp(script.session(), mode=mode, environment=environment or {}, clock=clock)
    async with app.run_test(size=size) as pilot:
        play = Play(script, app, pilot, clock)
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert app.ticking is not None
        app.ticking.pause()
        await play.types(answer)
        yield play


Scene = Callable[[Play], Awaitable[None]]


def played(scene: Scene, script: Script | None = None, **options: object) -> Script:
    """Plays a scene and returns the script with what the app asked for."""
    script = script or Script()

    async def act() -> None:
        async with playing(script, **options) as play:  # type: ignore[arg-type]
            await scene(play)

    asyncio.run(act())
    return script


def final(text: str, *, other: str | None = None, recording: int = 1, minute: int = 0) -> Final:
    return Final(
        recording=recording,
        started_at=datetime(2026, 3, 14, 9, 26 + minute, 53, tzinfo=UTC),
        voice="tiny",
        text=text,
        segments=(),
        samples=np.zeros(16000 * 3, dtype=np.float32),
        length_s=Seconds(3.0),
        latency_s=Seconds(0.121),
        other_voice=None if other is None else "tuned",
        other_text=other,
    )


def partial(committed: str, tentative: str, recording: int = 1) -> Partial:
    return Partial(recording, committed, tentative, Seconds(1.0), behind_s=Seconds(0.1))


def ended(recording: int = 1) -> Ended:
    return Ended(recording, False, Samples(16000), Samples(1600))
