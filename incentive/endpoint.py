"""A client of any OpenAI-compatible chat completions endpoint, hosted or local: for a judge, a rewriter, a grader.

Every reply is kept on disk under a hash of (model, messages, settings, draw), so that a killed run repeats no call and
the same question costs once. Calls that fail are tried again with growing waits; one that keeps failing stops the caller
with a RunError, for a judge that is down must not become a low score. The key is read from the environment, goes into
the header of the call and nowhere else. The only file that imports httpx (extra `judge`).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from incentive.config import ConfigError, Endpoint
from incentive.files import RunError
from incentive.records import hash64

Messages = Sequence[dict[str, str]]

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds before the second try, doubled each time; the most, also for Retry-After
AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses that may pass


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    stop: str  # the endpoint's finish_reason
    prompt_tokens: int
    completion_tokens: int


class _Fault(Exception):
    """A call failed. `wait` is what the endpoint asked for in seconds, None where trying again is no use."""

    def __init__(self, why: str, wait: float | None):
        super().__init__(why)
        self.wait = wait


class Kept:
    """Replies on disk under their keys: a JSONL file, made where it is missing; None keeps them in memory alone.

    A line that a kill tore is left out, and the next one starts anew.
    """

    def __init__(self, path: Path | None):
        self.known: dict[str, Reply] = {}
        self._file: IO[str] | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        for line in data.split(b"\n"):
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self.known[row["key"]] = Reply(row["text"], row["stop"], row["prompt_tokens"], row["completion_tokens"])
        self._file = path.open("a", encoding="utf-8")
        if data and not data.endswith(b"\n"):
            self._file.write("\n")

    def keep(self, key: str, reply: Reply) -> None:
        self.known[key] = reply
        if self._file is not None:
            self._file.write(json.dumps({"key": key, **asdict(reply)}) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def spent(self, price_prompt: float = 0.0, price_completion: float = 0.0) -> dict[str, float]:
        """What all replies cost, those of earlier starts too, for the ledger's one row of a finished evaluation.

        Args:
            price_prompt, price_completion: US dollars for 1M tokens.
        """
        prompt, written = (
            sum(getattr(r, name) for r in self.known.values()) for name in ("prompt_tokens", "completion_tokens")
        )
        paid = (prompt * price_prompt + written * price_completion) / 1e6
        return {
            "calls/made": len(self.known), "calls/prompt_tokens": prompt, "calls/completion_tokens": written, "calls/paid": paid,
        }  # fmt: skip


class Client:
    """Ask an endpoint. Safe to share among threads; at most `endpoint.concurrency` calls are in flight.

    Args:
        cache: a JSONL file of replies, made where it is missing; None: kept for this object's life.

    Raises:
        ConfigError: the key's variable is not set, or httpx is missing.
    """

    def __init__(self, endpoint: Endpoint, cache: Path | None = None):
        try:
            import httpx
        except ImportError as error:
            raise ConfigError("an endpoint needs httpx\nInstall it: pip install 'incentive[judge]'") from error
        self.endpoint, self._httpx = endpoint, httpx
        self._key = os.environ.get(endpoint.key_env, "").strip() if endpoint.key_env else ""
        if endpoint.key_env and not self._key:
            raise ConfigError(f"the endpoint's key: {endpoint.key_env} is not set\nexport {endpoint.key_env}=...")
        self._http = httpx.Client(
            timeout=endpoint.timeout, headers={"Authorization": f"Bearer {self._key}"} if self._key else {}
        )
        self._lock, self._slots = threading.Lock(), threading.BoundedSemaphore(endpoint.concurrency)
        self._replies: dict[str, Future[Reply]] = {}
        self._told = self._counts = {"made": 0, "kept": 0, "prompt_tokens": 0, "completion_tokens": 0, "paid": 0.0}
        self._kept = Kept(cache)
        for key, reply in self._kept.known.items():
            self._replies[key] = Future()
            self._replies[key].set_result(reply)

    @property
    def version(self) -> str:
        """What of it counts in a stage's key."""
        e = self.endpoint
        return f"{e.model} {e.temperature} {e.max_tokens}"

    @property
    def name(self) -> str:
        return self.endpoint.model

    def spent(self) -> dict[str, float]:
        """What every reply in the cache cost, by the endpoint's prices."""
        with self._lock:
            return self._kept.spent(self.endpoint.price_prompt, self.endpoint.price_completion)

    def _body(self, messages: Messages, draw: int) -> dict[str, Any]:
        e = self.endpoint
        return {
            "model": e.model, "messages": list(messages), "temperature": e.temperature, "max_tokens": e.max_tokens,
            "seed": draw,
        }  # fmt: skip

    def ask(self, messages: Messages, draw: int = 0) -> Reply:
        """The reply to messages. A second draw of the same question is another call, with another seed.

        Raises:
            RunError: the endpoint refused, or kept failing.
        """
        body = self._body(messages, draw)
        key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self._lock:
            known = self._replies.get(key)
            if known is None:
                mine = self._replies[key] = Future()
            else:
                self._counts = self._counts | {"kept": self._counts["kept"] + 1}
        if known is not None:
            return known.result()
        try:
            with self._slots:
                reply = self._call(body, key)
        except BaseException as error:
            with self._lock:
                self._replies.pop(key, None)  # so that it may be asked again
            mine.set_exception(error)
            raise
        self._keep(key, reply)
        mine.set_result(reply)
        return reply

    def ask_all(self, asked: Sequence[tuple[Messages, int]]) -> list[Reply]:
        """The replies to (messages, draw), in order, `concurrency` at a time; the first error ends it."""
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            futures = [pool.submit(self.ask, messages, draw) for messages, draw in asked]
            try:
                return [f.result() for f in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _keep(self, key: str, reply: Reply) -> None:
        e = self.endpoint
        price = (reply.prompt_tokens * e.price_prompt + reply.completion_tokens * e.price_completion) / 1e6
        with self._lock:
            c = self._counts
            self._counts = {
                "made": c["made"] + 1, "kept": c["kept"], "prompt_tokens": c["prompt_tokens"] + reply.prompt_tokens,
                "completion_tokens": c["completion_tokens"] + reply.completion_tokens, "paid": c["paid"] + price,
            }  # fmt: skip
            self._kept.keep(key, reply)

    def row(self) -> dict[str, float]:
        """What the calls since the last `row()` cost, for a row of metrics that the ledger folds: `calls/paid` is in
        US dollars by the endpoint's prices; `calls/kept` were answered from disk and cost nothing."""
        with self._lock:
            now, before, self._told = self._counts, self._told, self._counts
        return {f"calls/{name}": value - before[name] for name, value in now.items()}

    def _call(self, body: dict[str, Any], key: str) -> Reply:
        e, wait, told = self.endpoint, FIRST_WAIT, ""
        for attempt in range(e.retries + 1):
            try:
                return self._once(body)
            except _Fault as fault:
                told = self._safe(str(fault))
                if fault.wait is None:
                    break
                if attempt < e.retries:
                    jitter = 0.75 + (hash64(key, attempt) % 1000) / 2000  # so that many do not come back at once
                    time.sleep(min(LONGEST_WAIT, max(fault.wait, wait * jitter)))
                    wait *= 2
        fix = (
            ""
            if "401" not in told and "403" not in told
            else f"\nSee the key in {e.key_env or 'key_env (none is set)'}."
        )
        raise RunError(f"endpoint {e.url}, model {e.model}: {told}{fix}") from None

    def _once(self, body: dict[str, Any]) -> Reply:
        """One call.

        Raises:
            _Fault: it gave no reply.
        """
        try:
            found = self._http.post(f"{self.endpoint.url.rstrip('/')}/chat/completions", json=body)
        except self._httpx.HTTPError as error:
            raise _Fault(f"{type(error).__name__}: {error}", 0.0) from None
        if found.status_code != 200:
            wait = None
            if found.status_code in AGAIN:
                wait = 0.0
                with suppress(ValueError):
                    wait = max(0.0, float(found.headers.get("retry-after", "0")))
            raise _Fault(f"{found.status_code} {found.reason_phrase}: {found.text[:200]}", wait)
        try:
            data = found.json()
            choice, usage = data["choices"][0], data.get("usage") or {}
            text = choice["message"]["content"] or ""
            if not isinstance(text, str):
                raise TypeError("content is no text")
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _Fault(f"no chat completion ({type(error).__name__}: {error}): {found.text[:200]}", 0.0) from None
        return Reply(text, str(choice.get("finish_reason") or ""), *tokens)

    def _safe(self, text: str) -> str:
        """An endpoint may echo what it was sent."""
        return text.replace(self._key, "***") if self._key else text

    def forget(self) -> None:
        """Drop the replies that are held in memory: for a server, which asks without an end."""
        with self._lock:
            self._replies.clear()
            self._kept.known.clear()

    def close(self) -> None:
        self._http.close()
        self._kept.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
