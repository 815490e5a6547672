"""The risk control in serving: an answer to a flagged request is held back until it was reviewed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from incentive.files import RunError
from incentive.judge import Prompt
from incentive.serve.asked import Refused
from incentive.serve.loop import Piece

if TYPE_CHECKING:
    from incentive.safety.control import RiskControl

Pieces = AsyncGenerator[tuple[int, Piece], None]  # (answer's index, piece)


async def held(pieces: Pieces, query: Callable[[int], Prompt], control: RiskControl) -> Pieces:
    """Of a flagged request each answer is held back until it has ended and was reviewed; one that is retracted comes as a
    single piece with another text and no tokens. `query` is what an answer's request asked.

    Raises:
        Refused: the reviewer is down; nothing passes unreviewed.
    """
    flagged, kept = dict[int, bool](), dict[int, list[Piece]]()
    async with contextlib.aclosing(pieces):
        async for at, piece in pieces:
            if at not in flagged:
                flagged[at] = control.flags(query(at))
            if not flagged[at]:
                yield at, piece
                continue
            mine = kept.setdefault(at, [])
            mine.append(piece)
            if piece.reason is None:
                continue
            try:
                turn = (query(at), "".join(p.text for p in mine))
                taken = (await asyncio.to_thread(control.retracts_all, [turn]))[0]
            except RunError as error:
                raise Refused(503, f"the risk control cannot review: {error}", "server_error") from None
            finally:
                control.reviewer.forget()
            if taken:
                mine = [Piece(control.retracted(query(at)), (), "content_filter", mine[0].prompt)]
            for one in mine:
                yield at, one
