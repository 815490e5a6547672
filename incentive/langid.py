"""Languages that share a script, told apart by py3langid (BSD, extra `language`). The only file that imports it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from incentive.config import ConfigError


@lru_cache(maxsize=16)
def _identifier(among: tuple[str, ...]) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigError(
            f"telling {' from '.join(among)} needs py3langid\nInstall it: pip install 'incentive[language]'"
        ) from error
    found = LanguageIdentifier.from_model_file(MODEL_FILE)
    found.set_languages(list(among))
    return found


def identify(text: str, among: tuple[str, ...]) -> str:
    """The likeliest of the languages `among`."""
    return _identifier(among).classify(text)[0]
