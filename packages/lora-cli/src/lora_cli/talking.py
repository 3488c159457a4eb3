"""When a recording starts and stops: the talk key, the talk button, focus, and the mode. Pure: no clock, no terminal, no sound."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from lora.errors import ConfigError
from lora.units import Seconds

BOUNCE_S = Seconds(0.15)
"""Presses closer than this are one key that is held, told as repeats by a terminal that has no other word for them (each 20-50 ms)."""


class Mode(StrEnum):
    HOLD = "hold"
    TOGGLE = "toggle"
    VAD = "vad"


AUTO = "auto"
WISHES = (AUTO, *Mode)
"""What `--mode` takes."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode that is on, why, and whether the space bar can do what the mode says (the talk button always can)."""

    mode: Mode
    reason: str
    key_works: bool = True


def choose(wish: str, releases: bool | None, environment: Mapping[str, str]) -> Choice:
    """The mode for what was asked for, given whether the terminal reports key release (None: not known yet).

    Raises `ConfigError` when `wish` is none of `WISHES`.
    """
    if wish not in WISHES:
        raise ConfigError(f"--mode {wish}: choose from {', '.join(WISHES)}")
    if wish == Mode.VAD:
        return Choice(Mode.VAD, "hands-free")
    if wish == Mode.TOGGLE:
        return Choice(Mode.TOGGLE, "press to start, press to stop")
    if releases:
        return Choice(Mode.HOLD, "talk while the space bar is down")
    why = _why_not(releases, environment)
    if wish == Mode.HOLD:
        return Choice(Mode.HOLD, f"{why}, so the space bar cannot be held; hold the talk button with the mouse", key_works=False)
    return Choice(Mode.TOGGLE, why)


def _why_not(releases: bool | None, environment: Mapping[str, str]) -> str:
    if releases is None:
        return "the terminal has not said whether it reports key release"
    if "TMUX" in environment:
        return "tmux does not pass key release on"
    return "this terminal does not report key release"


class Input(StrEnum):
    """An action of the user or the window system."""

    KEY_DOWN = "key down"
    KEY_REPEAT = "key repeat"
    KEY_UP = "key up"
    BUTTON_DOWN = "button down"
    BUTTON_UP = "button up"
    BLUR = "focus lost"
    """Another window is in front: a key that is let go there would not be seen."""
    FOCUS = "focus back"
    STOP = "stop"
    """The app is about to end, another screen opens, or no sound comes: nothing may be heard."""


class Background(StrEnum):
    """What hands-free does while another window has the focus."""

    LISTEN = "listen"
    PAUSE = "pause"


class EndsWith(StrEnum):
    """What ends a recording, beside a stop."""

    KEY_UP = "key up"
    BUTTON_UP = "button up"
    PRESS = "the next press"


@dataclass(frozen=True, slots=True)
class Recording:
    ends_with: EndsWith
    hands_free: bool = False


HANDS_FREE = Recording(EndsWith.PRESS, hands_free=True)


@dataclass(frozen=True, slots=True)
class Talking:
    """Whether something is being recorded, and by what it will end."""

    choice: Choice
    recording: Recording | None = None
    pressed_at: Seconds | None = None
    """When the talk key was last seen going down, in seconds of any clock that does not go back."""
    background: Background = Background.LISTEN
    resumes: bool = False
    """Hands-free listens again once the window has the focus."""

    def after(self, what: Input, at: Seconds) -> "Talking":
        """The state once `what` happened at time `at`."""
        if what is Input.STOP:
            return replace(self, recording=None, resumes=False)
        if what is Input.BLUR:
            return self._behind()
        if what is Input.FOCUS:
            return replace(self, recording=HANDS_FREE, resumes=False) if self.resumes else self
        if what is Input.KEY_DOWN:
            bounced = self.pressed_at is not None and at - self.pressed_at < BOUNCE_S
            pressed = replace(self, pressed_at=at)
            return pressed if bounced or not self.choice.key_works else pressed._press(by_key=True)
        if what is Input.BUTTON_DOWN:
            return self._press(by_key=False)
        ends = {Input.KEY_UP: EndsWith.KEY_UP, Input.BUTTON_UP: EndsWith.BUTTON_UP}.get(what)
        if self.recording is not None and self.recording.ends_with == ends:
            return replace(self, recording=None)
        return self

    def switched(self, choice: Choice) -> "Talking":
        """The state in another mode. What is being recorded ends; hands-free listens at once."""
        return Talking(choice, HANDS_FREE if choice.mode is Mode.VAD else None, background=self.background)

    def _behind(self) -> "Talking":
        """With another window in front: hands-free goes on, or pauses where that was asked for; the rest ends."""
        hands_free = self.recording is not None and self.recording.hands_free
        if hands_free and self.background is Background.LISTEN:
            return self
        return replace(self, recording=None, resumes=hands_free or self.resumes)

    def _press(self, by_key: bool) -> "Talking":
        if self.recording is not None:
            # A button that is held ends with a key too: it may have been let go where nobody saw it.
            ends = self.recording.ends_with is EndsWith.PRESS or (by_key and self.recording.ends_with is EndsWith.BUTTON_UP)
            return replace(self, recording=None) if ends else self
        if self.choice.mode is Mode.VAD:
            return replace(self, recording=HANDS_FREE, resumes=False)
        if not by_key:
            return replace(self, recording=Recording(EndsWith.BUTTON_UP))
        return replace(self, recording=Recording(EndsWith.KEY_UP if self.choice.mode is Mode.HOLD else EndsWith.PRESS))
