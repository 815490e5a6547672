"""Tokens into text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from typing import Any

HOLE = "\ufffd"  # what a decoder writes for bytes that are no character yet


class Text:
    """The text of one answer. Where nobody reads along and no stop string is set, it is decoded once, at the end."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()):
        self.tokenizer, self.stop = tokenizer, stop
        self.ids: list[int] = []
        self.begun = self.read = 0  # ids[begun:read] is context whose text is out already
        self.text = ""  # decoded, and not taken yet
        self.stopped = False
        self._hold = max((len(s) for s in stop), default=1) - 1

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def push(self, id: int | None, reading: bool) -> None:
        """One more token; None where it was the end. `reading`: somebody takes the text while it grows."""
        if id is not None:
            self.ids.append(id)
        if not self.stop and not reading:
            return
        before, now = self._decode(self.ids[self.begun : self.read]), self._decode(self.ids[self.begun :])
        if len(now) <= len(before) or now.endswith(HOLE):
            return
        self._grow(now[len(before) :])
        self.begun, self.read = self.read, len(self.ids)

    def _grow(self, more: str) -> None:
        """Add text; where a stop string is complete, cut there."""
        start = max(0, len(self.text) - self._hold)
        self.text += more
        found = [at for s in self.stop if (at := self.text.find(s, start)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    @property
    def ready(self) -> bool:
        """Whether there is text that no stop string can take back."""
        return len(self.text) > self._hold

    def take(self, last: bool) -> str:
        """What can be given away: all at the end, else all but what a stop string may still cut."""
        if last and not self.stopped and self.read < len(self.ids):  # an unfinished character, or nobody read along
            before = self._decode(self.ids[self.begun : self.read])
            self._grow(self._decode(self.ids[self.begun :])[len(before) :])
            self.read = len(self.ids)
        keep = 0 if last or self.stopped else self._hold
        out, self.text = self.text[: len(self.text) - keep], self.text[len(self.text) - keep :]
        return out
