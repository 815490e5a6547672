"""Fetching from the Hub, or from its cache on this machine. The only file that imports huggingface_hub, late (extra `hub`).

hub:owner/name   hub:owner/name@revision      as a base, and with `?question=...` as a task (`tasks.hub`)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

PREFIX = "hub:"


class HubError(ValueError):
    """It cannot be had: what is the matter, and on a second line what to do."""


def named(name: str) -> tuple[str, str]:
    """(id, revision) of `hub:owner/name@revision`; main where none is given."""
    path, _, revision = name.removeprefix(PREFIX).partition("@")
    return path, revision or "main"


def fetch(id: str, revision: str, patterns: Sequence[str], kind: Literal["model", "dataset"]) -> Path:
    """The folder of a snapshot, whose name is its commit. What is in the cache is not fetched again.

    Raises:
        HubError: it is no id, the Hub knows none of that name, it is gated, or the Hub cannot be reached.
    """
    what = "model" if kind == "model" else "data set"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", id):
        raise HubError(f"{id}: no such file or folder, and no {what}'s id (owner/name)")
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import snapshot_download
    except ImportError:
        raise HubError("reading from the Hub needs huggingface_hub\nInstall it: pip install 'incentive[hub]'") from None
    at = f"{what} {id} at {revision[:12]}"
    try:
        return Path(snapshot_download(id, repo_type=kind, revision=revision, allow_patterns=list(patterns)))
    except hub.GatedRepoError:
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{id}"
        raise HubError(f"{at}: its owner asks for an agreement\nAccept it at {page} and run `hf auth login`") from None
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError):
        raise HubError(f"{at}: the Hub has none, or it is private\nCheck id and revision") from None
    except hub.LocalEntryNotFoundError:
        raise HubError(
            f"{at}: not in the local cache, and the Hub cannot be reached\nRun this once with a connection"
        ) from None
    except Exception as error:  # the client raises the kinds of its HTTP library; all mean the same to a user
        why = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        raise HubError(f"{at}: {why}\nTry again") from None
