"""What keys do with the chosen utterance."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from textual import work
from textual.app import App
from textual.driver import Driver

from lora.errors import LoraError
from lora_cli.engine.events import Final
from lora_cli.replacements import difference
from lora_cli.screen.correct import Correction, CorrectScreen
from lora_cli.screen.main import MainScreen
from lora_cli.screen.save import SaveScreen
from lora_cli.screen.standing import NEITHER, Standing
from lora_cli.session import SaveFormat, Session


class UtteranceKeys(App[None]):
    """The part of the app that copies, corrects, deletes, plays, saves and votes."""

    def __init__(self, session: Session, driver_class: type[Driver]) -> None:
        super().__init__(driver_class=driver_class)
        self.session = session
        self.standing = Standing()
        self.main = MainScreen()
        self._deleted: list[tuple[int, Final]] = []
        """What was deleted, and from which row: the last one first brought back."""

    def stop_talking(self) -> None:
        """Ends what is being recorded."""
        raise NotImplementedError

    async def action_copy(self) -> None:
        if final := self._chosen():
            self.copy_to_clipboard(final.text)
            self.main.status.say("copied")
            with self.refusals_shown():
                await asyncio.to_thread(self.session.results.copy, final.text)

    @work
    async def action_correct(self) -> None:
        final = self._chosen()
        if final is None:
            return
        self.stop_talking()
        heard = final.text if final.heard is None else final.heard
        correction: Correction | None = await self.push_screen_wait(CorrectScreen(heard))
        if correction is None:
            return
        if not (text := correction.text):
            self.main.status.say("an utterance without text cannot be trained on; nothing was saved", serious=True)
            return
        with self.refusals_shown():
            self.standing.corrections = held = await asyncio.to_thread(self.session.results.correct, final, text)
            self.main.status.say(f"saved for training: {held.file}")
            self.main.history.exchange(final, replace(final, text=text, heard=None, applied=(), corrected=True))
            if correction.always:
                await self._write_so_from_now_on(heard, text)

    async def _write_so_from_now_on(self, heard: str, text: str) -> None:
        entry = difference(heard, text)
        if entry is None or self.session.add_replacement is None:
            self.main.status.say("saved for training; an entry for the table of replacements takes words that differ in one place only")
            return
        await asyncio.to_thread(self.session.add_replacement, entry)
        self.main.status.say(f"saved for training; {entry.spoken!r} is written {entry.written!r} from now on")

    @work
    async def action_save(self) -> None:
        if self._chosen() is None:
            return
        self.stop_talking()
        form: SaveFormat | None = await self.push_screen_wait(SaveScreen())
        if form is None:
            return
        with self.refusals_shown():
            path = await asyncio.to_thread(self.session.results.save, form)
            self.main.status.say(f"saved: {path}")

    async def action_delete(self) -> None:
        if final := self._chosen():
            with self.refusals_shown():
                await asyncio.to_thread(self.session.results.remove, final)
                self._deleted.append((self.main.history.drop(final), final))
                self.standing.utterances -= 1
                self.main.status.say("deleted; u brings it back, until you quit")

    async def action_undelete(self) -> None:
        if not self._deleted:
            self.main.status.say("nothing was deleted")
            return
        place, final = self._deleted[-1]
        with self.refusals_shown():
            await asyncio.to_thread(self.session.results.restore, final)
            self._deleted.pop()
            self.standing.utterances += 1
            self.main.history.put_back(place, final)
            self.main.status.say("brought back")

    @work(exclusive=True, group="replay")
    async def action_replay(self) -> None:
        if final := self._chosen():
            self.stop_talking()
            self.main.status.say("playing")
            with self.refusals_shown():
                await asyncio.to_thread(self.session.results.replay, final)
                self.main.status.say("played")

    async def action_prefer(self, which: int) -> None:
        """Votes for the first or second text of an A/B utterance, or with 0 for neither. A later vote replaces it."""
        if (final := self._chosen()) is None:
            return
        if final.other_voice is None:
            self.main.status.say("there is one text only; b turns A/B on, and then 1 and 2 choose the better text")
            return
        voice = (NEITHER, final.voice, final.other_voice)[which]
        with self.refusals_shown():
            await asyncio.to_thread(self.session.results.prefer, final, voice)
            if final.preferred is not None:
                self.standing.votes[final.preferred] -= 1
            self.standing.votes[voice] += 1
            self.main.history.exchange(final, replace(final, preferred=voice))
            self.main.status.say("both texts are as good" if which == 0 else f"{voice} is better here")

    @contextmanager
    def refusals_shown(self) -> Iterator[None]:
        """A command that cannot be done says why on the status line."""
        try:
            yield
        except LoraError as error:
            self.main.status.say(str(error), serious=True)

    def _chosen(self) -> Final | None:
        if (final := self.main.history.chosen) is None:
            self.main.status.say("choose an utterance with the arrow keys" if self.main.history.option_count else "nothing was said yet")
        return final
