"""Who answers a judge's questions: an endpoint, or a model of this machine. Both keep their replies and can be resumed.

--judge judge.toml       an OpenAI-compatible endpoint: the settings of `config.Endpoint`
--judge my-model         a checkpoint folder, run directory or name, asked through its chat template
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import ValidationError

from incentive import chat, config
from incentive.config import ConfigError
from incentive.endpoint import Client, Kept, Messages, Reply
from incentive.keys import folder_key
from incentive.records import Request, hash64

TOKENS = 4096  # of a local judge's reply, where its context has room


class Asker(Protocol):
    """Someone to ask. `version` is all that its replies depend on."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    def ask_all(self, asked: Sequence[tuple[Messages, int]]) -> list[Reply]: ...
    def spent(self) -> dict[str, float]: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...


class LocalAsker:
    """A model of this machine, greedy. The replies of a killed evaluation are kept as those of an endpoint are.

    Args:
        cache: a JSONL file of replies; None: kept in memory.

    Raises:
        ConfigError: the model has no chat template.
        CheckpointError, CompareError: there is no such model.
    """

    def __init__(self, model: str, cache: Path | None = None, threads: int = 2, device: str = "cpu"):
        from incentive.answers import speaker
        from incentive.config import Engine
        from incentive.engine import local, rows_that_fit

        self.name = Path(model).resolve().name
        self._model = speaker(model, None, threads, device)
        if self._model.template != "chat":
            raise ConfigError(
                f"{model}: a judge needs a chat template, and this model has none\nGive an instruction-tuned model."
            )
        self.version, self._kept, self._lock = self._model.key, Kept(cache), threading.Lock()
        policy = self._model.policy
        self._context = getattr(policy.config.get_text_config(), "max_position_embeddings", None) or 2**30
        slots = rows_that_fit(policy, min(self._context, 2 * TOKENS), 64)
        self._engine = local(policy, self._model.tokenizer, self._model.folder, Engine(max_num_seqs=slots), share=True)

    def ask_all(self, asked: Sequence[tuple[Messages, int]]) -> list[Reply]:
        """The replies to (messages, draw), in order. A question beyond the model's context gets an empty reply."""
        keys = [hashlib.sha256(json.dumps([self.version, m, d], sort_keys=True).encode()).hexdigest() for m, d in asked]
        with self._lock:
            known = dict(self._kept.known)
            new = {k: (m, d) for k, (m, d) in zip(keys, asked, strict=True) if k not in known}
            requests: list[Request] = []
            for key, (messages, draw) in new.items():
                text = chat.render("chat", list(messages), self._model.tokenizer)
                ids = np.asarray(self._model.tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)
                room = min(TOKENS, self._context - len(ids))
                if room < 1:
                    self._kept.keep(key, Reply("", "length", 0, 0))
                else:
                    requests.append(Request(key, ids, (hash64("judge", draw),), room, 0.0, 1.0))
            for s in self._engine.sample(requests):
                self._kept.keep(s.problem_id, Reply(s.text, s.stop, len(s.prompt_ids), len(s.ids)))
            return [self._kept.known[k] for k in keys]

    def spent(self) -> dict[str, float]:
        """Its tokens; a model of this machine costs time, and no money."""
        made = self._kept.spent()
        return made | {"tokens/prompt": made["calls/prompt_tokens"], "tokens/sampled": made["calls/completion_tokens"]}

    def forget(self) -> None:
        with self._lock:
            self._kept.known.clear()

    def close(self) -> None:
        self._engine.close()
        self._kept.close()


def endpoint_of(path: Path) -> config.Endpoint:
    """The endpoint that a TOML file describes.

    Raises:
        ConfigError: the file cannot be read, or a key is wrong.
    """
    try:
        return config.Endpoint.model_validate(config.load_toml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {config.explain(error, config.Endpoint)}") from None


def asker(who: str, cache: Path | None = None, threads: int = 2, device: str = "cpu") -> Asker:
    """The one who is meant by `who`.

    Raises:
        ConfigError, CheckpointError, CompareError: it is none, or cannot be used.
    """
    if who.startswith(("http://", "https://")):
        lines = f'url = "{who}"\nmodel = "..."'
        raise ConfigError(
            f"{who}: an endpoint is given as a .toml file, for it needs a model's name, a key, prices\n"
            f"Write judge.toml: {lines.replace(chr(10), ', ')}"
        )
    if who.endswith(".toml"):
        return Client(endpoint_of(Path(who)), cache)
    return LocalAsker(who, cache, threads, device)


def key_of(who: str) -> str:
    """What of it an evaluation's results depend on, without opening it.

    Raises:
        ConfigError, CheckpointError: the file or the folder cannot be used.
    """
    if who.endswith(".toml"):
        e = endpoint_of(Path(who))
        return f"{e.model} {e.temperature} {e.max_tokens}"
    from incentive.compare import model_folder
    from incentive.model.checkpoint import resolve

    return folder_key(resolve(model_folder(who)))
