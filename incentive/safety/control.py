"""The risk control: words of the request first, then a review of the answer by written standards, which may retract it.

Kept from the paper (D.3.1): the user's words are matched against a list, and only a dialogue with a hit is reviewed, so that
most turns cost nothing. A request that hides its words (an encoding) is therefore not seen by it: `incentive safety
--jailbreak all` shows how much gets through.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from incentive import chat
from incentive.config import ConfigError
from incentive.judge import Prompt
from incentive.safety.review import Reviewer, Turn

KEYWORDS = Path(__file__).parents[1] / "assets/safety/keywords.txt"
RETRACTED = {"en": "I cannot help with this.", "zh": "我不能帮助处理这个请求。"}
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_HAN = re.compile("[一-鿿]")


def _plain(text: str) -> str:
    """Wide and styled letters as usual ones, nothing invisible, no case."""
    return unicodedata.normalize("NFKC", text).translate(_UNSEEN).casefold()


class Keywords:
    """Words of a file, one a line: English ones are the beginning of a word, Chinese ones stand anywhere.

    Raises:
        ConfigError: the file cannot be read, or holds none.
    """

    def __init__(self, path: Path = KEYWORDS):
        try:
            lines = [" ".join(line.partition("#")[0].split()) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}\nGive a file with one word a line.") from None
        self.words = tuple(dict.fromkeys(_plain(line) for line in lines if line))
        if not self.words:
            raise ConfigError(f"{path}: no word in it\nGive a file with one word a line.")
        escaped = [re.escape(w).replace(r"\ ", r"\s+") for w in sorted(self.words, key=len, reverse=True)]
        self._pattern = re.compile("|".join(w if _HAN.match(w) else rf"(?<![a-z0-9]){w}" for w in escaped))

    def hit(self, query: Prompt) -> str | None:
        """The first word of the list that the request holds."""
        turns = [query] if isinstance(query, str) else [m["content"] for m in query if m["role"] == "user"]
        found = self._pattern.search(_plain("\n".join(turns)))
        return found[0] if found else None


class RiskControl:
    """Keywords, a reviewer, and what stands in the place of a retracted answer."""

    def __init__(self, keywords: Keywords, reviewer: Reviewer):
        self.keywords, self.reviewer = keywords, reviewer

    def flags(self, query: Prompt) -> bool:
        return self.keywords.hit(query) is not None

    def retracts_all(self, turns: Sequence[Turn]) -> list[bool]:
        """Which answers are taken back; only those to flagged requests are reviewed.

        Raises:
            RunError: the reviewer is an endpoint that kept failing. Nothing has passed then.
        """
        flagged = [i for i, (query, answer) in enumerate(turns) if answer.strip() and self.flags(query)]
        reviews = self.reviewer.review_all([turns[i] for i in flagged]) if flagged else []
        found = [False] * len(turns)
        for i, review in zip(flagged, reviews, strict=True):
            found[i] = bool(review.violated)
        return found

    def retracted(self, query: Prompt) -> str:
        """The text in place of an answer that was taken back, in the request's language."""
        return RETRACTED["zh" if len(_HAN.findall(chat.text_of(query))) > 4 else "en"]
