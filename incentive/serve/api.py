"""OpenAI's completions and chat completions over the loop: what a request may say, and what is answered.

Beside them what lm-eval and other clients of vLLM ask for: `/health`, `/tokenize`, `/detokenize`, `/tokenizer_info`, and in a
request `top_k` and `ignore_eos`. A setting that we do not have is refused unless it has its neutral value, so that nobody
measures something else than was asked. Starlette is imported here and in `asked` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from incentive.judge import Prompt
from incentive.records import hash64
from incentive.serve.asked import (
    MAX_ROWS,
    NEUTRAL,
    Chat,
    Completion,
    Detokenize,
    Refused,
    Shared,
    Tokenize,
    body,
    parsed,
)
from incentive.serve.held import Pieces, held
from incentive.serve.loop import Ask, Loop, Piece, Token

if TYPE_CHECKING:
    from incentive.safety.control import RiskControl


class Api:
    """The routes over one model.

    Args:
        slots: rows at work at once.
        waiting: rows that may wait beside them; more are refused with 429.
        control: reviews answers before they are shown, those to requests that it flags.
    """

    def __init__(
        self, loop: Loop, tokenizer: Any, name: str, context: int, vocabulary: int, slots: int, waiting: int = 1024,
        control: RiskControl | None = None,
    ):  # fmt: skip
        self.control = control
        self.loop, self.tokenizer, self.name, self.context = loop, tokenizer, name, context
        self.vocabulary, self.room, self.began = vocabulary, slots + waiting, int(time.time())

    def app(self) -> Starlette:
        routes = [
            Route("/health", self._answered(self.health)),
            Route("/v1/models", self._answered(self.models)),
            Route("/v1/completions", self._answered(self.completions), methods=["POST"]),
            Route("/v1/chat/completions", self._answered(self.chat), methods=["POST"]),
            Route("/tokenize", self._answered(self.tokenize), methods=["POST"]),
            Route("/detokenize", self._answered(self.detokenize), methods=["POST"]),
            Route("/tokenizer_info", self._answered(self.tokenizer_info)),
        ]
        errors = {
            404: lambda request, _: Refused(404, f"there is no {request.url.path} here").response(),
            405: lambda request, _: Refused(405, f"{request.method} is not for {request.url.path}").response(),
            500: lambda _request, error: Refused(500, f"{type(error).__name__}: {error}", "server_error").response(),
        }
        return Starlette(routes=routes, exception_handlers=errors)

    def _answered(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except Refused as refused:
                return refused.response()
            except ClientDisconnect:
                return Response(status_code=499)

        return answer

    # what is not sampling

    async def health(self, _: Request) -> Response:
        if self.loop.failed:
            raise Refused(503, f"the engine has stopped: {self.loop.failed}", "server_error")
        return JSONResponse({"status": "ok", "rows": self.loop.load})

    async def models(self, _: Request) -> Response:
        about = {
            "id": self.name,
            "object": "model",
            "created": self.began,
            "owned_by": "incentive",
            "max_model_len": self.context,
        }
        return JSONResponse({"object": "list", "data": [about]})

    async def tokenize(self, request: Request) -> Response:
        asked = parsed(Tokenize, await body(request))
        ids = self.tokenizer.encode(asked.prompt, add_special_tokens=asked.add_special_tokens)
        return JSONResponse({"tokens": list(ids), "count": len(ids), "max_model_len": self.context})

    async def detokenize(self, request: Request) -> Response:
        asked = parsed(Detokenize, await body(request))
        return JSONResponse(
            {"prompt": self.tokenizer.decode(self._known(asked.tokens, "tokens"), skip_special_tokens=False)}
        )

    async def tokenizer_info(self, _: Request) -> Response:
        t = self.tokenizer
        found = {k: getattr(t, k, None) for k in ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template")}
        return JSONResponse({"tokenizer_class": type(t).__name__, "model_max_length": self.context, **found})

    # requests into asks

    def _known(self, ids: list[int], param: str) -> list[int]:
        if any(not 0 <= i < self.vocabulary for i in ids):
            raise Refused(400, f"{param}: a token id is outside the vocabulary of {self.vocabulary}", param=param)
        return ids

    def _check(self, asked: Shared) -> None:
        """Raises Refused: another model is asked for, or something that we cannot do."""
        if asked.model is not None and asked.model != self.name:
            raise Refused(
                404,
                f"there is no model {asked.model!r} here, only {self.name!r}",
                param="model",
                code="model_not_found",
            )
        for name, given in (asked.model_extra or {}).items():
            if name in NEUTRAL and given is not None and given not in NEUTRAL[name]:
                raise Refused(400, f"{name} is not supported", param=name, code="unsupported_parameter")
        if self.loop.failed:
            raise Refused(503, f"the engine has stopped: {self.loop.failed}", "server_error")

    def _asks(
        self, asked: Shared, prompts: list[list[int]], default: int | None, top: int | None, echo: bool, put: Callable[[int, Piece], None]
    ) -> list[Ask]:  # fmt: skip
        """One ask for each answer, prompt by prompt.

        Raises:
            Refused: prompt and answer do not fit, or there is too much at once.
        """
        n = asked.n or 1
        if len(prompts) * n > MAX_ROWS:
            raise Refused(
                400, f"{len(prompts)} prompts with {n} answers each: at most {MAX_ROWS} answers a request", param="n"
            )
        if self.loop.load + len(prompts) * n > self.room:
            raise Refused(429, "too many requests at work; try again", "rate_limit_error", code="rate_limit_exceeded")
        stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
        if len(stop) > 64 or any(not s for s in stop):
            raise Refused(400, "stop: at most 64 texts, none of them empty", param="stop")
        base = secrets.randbits(63) if asked.seed is None else asked.seed
        asks: list[Ask] = []
        for number, ids in enumerate(prompts):
            if not ids:
                raise Refused(400, "prompt: it has no tokens", param="prompt")
            room = self.context - len(ids)
            limit = asked.max_tokens if asked.max_tokens is not None else min(room, default) if default else room
            if limit > room or room < (0 if echo else 1):
                raise Refused(
                    400, f"this model's context is {self.context} tokens, but the prompt has {len(ids)} and max_tokens is {limit}",
                    param="max_tokens", code="context_length_exceeded",
                )  # fmt: skip
            for i in range(n):
                at = len(asks)
                asks.append(
                    Ask(
                        np.asarray(ids, dtype=np.int64), limit, partial(put, at),
                        1.0 if asked.temperature is None else asked.temperature, 1.0 if asked.top_p is None else asked.top_p,
                        max(0, asked.top_k or 0), hash64("serve", base, number, i), stop, top, echo, bool(asked.stream),
                        bool(asked.ignore_eos),
                    )
                )  # fmt: skip
        return asks

    def _ids(self, prompt: str | list[int] | list[str] | list[list[int]]) -> list[list[int]]:
        """A prompt, or several, as text or as ids."""
        if isinstance(prompt, str):
            return [list(self.tokenizer.encode(prompt, add_special_tokens=False))]
        if prompt and isinstance(prompt[0], int):
            return [self._known(prompt, "prompt")]
        return [ids for one in cast("list[str] | list[list[int]]", prompt) for ids in self._ids(one)]

    async def _pieces(self, request: Request, make: Callable[[Callable[[int, Piece], None]], list[Ask]]) -> Pieces:
        """(answer's index, piece) until every answer has ended. Where the client goes away, its rows are given up."""
        found: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        here = asyncio.get_running_loop()

        def put(at: int, piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the server's loop has ended
                here.call_soon_threadsafe(found.put_nowait, (at, piece))

        asks = make(put)
        self.loop.submit(asks)
        gone = asyncio.ensure_future(_disconnected(request))
        left = len(asks)
        try:
            while left:
                next_ = asyncio.ensure_future(found.get())
                await asyncio.wait((next_, gone), return_when=asyncio.FIRST_COMPLETED)
                if not next_.done():
                    next_.cancel()
                    raise ClientDisconnect
                at, piece = next_.result()
                if piece.reason == "closed":
                    raise Refused(503, "the server is closing", "server_error")
                left -= piece.reason is not None
                yield at, piece
        finally:
            gone.cancel()
            for ask in asks:
                ask.cancelled = True

    def _shown(
        self, request: Request, make: Callable[[Callable[[int, Piece], None]], list[Ask]], query: Callable[[int], Prompt]
    ) -> Pieces:  # fmt: skip
        """The pieces of `_pieces`, past the risk control where there is one."""
        pieces = self._pieces(request, make)
        return pieces if self.control is None else held(pieces, query, self.control)

    # completions

    async def completions(self, request: Request) -> Response:
        asked = parsed(Completion, await body(request))
        self._check(asked)
        prompts = self._ids(asked.prompt)
        if not prompts:
            raise Refused(400, "prompt: there is none", param="prompt")
        echo = bool(asked.echo)
        if echo and asked.stream:
            raise Refused(400, "echo and stream do not go together", param="echo", code="unsupported_parameter")
        make = lambda put: self._asks(asked, prompts, 16, asked.logprobs, echo, put)  # noqa: E731
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
        }
        used = sum(map(len, prompts))

        def query(at: int) -> str:
            return self.tokenizer.decode(prompts[at // (asked.n or 1)], skip_special_tokens=True)

        if asked.stream:
            return await self._stream(request, make, asked, head, used, self._text_delta, query)
        answers = await self._whole(request, make, len(prompts) * (asked.n or 1), query)
        choices = []
        for at, (text, tokens, reason) in enumerate(answers):
            if echo:
                text = self.tokenizer.decode(prompts[at // (asked.n or 1)], skip_special_tokens=False) + text
            logprobs = self._text_logprobs(tokens) if asked.logprobs is not None else None
            choices.append({"index": at, "text": text, "logprobs": logprobs, "finish_reason": reason})
        written = sum(len(t) for _, t, _ in answers) - (used * (asked.n or 1) if echo else 0)
        return JSONResponse({**head, "choices": choices, "usage": _usage(used, written)})

    async def _whole(
        self, request: Request, make: Any, n: int, query: Callable[[int], Prompt]
    ) -> list[tuple[str, list[Token], str]]:
        """(text, tokens, reason) of every answer; with `echo` the prompt's tokens stand first."""
        found: list[tuple[list[str], list[Token], str]] = [([], [], "") for _ in range(n)]
        async for at, piece in self._shown(request, make, query):
            texts, tokens, _ = found[at]
            texts.append(piece.text)
            tokens += [*piece.prompt, *piece.tokens]
            found[at] = (texts, tokens, piece.reason or "")
        return [("".join(texts), tokens, reason) for texts, tokens, reason in found]

    def _token_text(self, id: int) -> str:
        """A token as text; part of a character is named by its id, so that two of them stay apart."""
        text = self.tokenizer.decode([id], skip_special_tokens=False)
        return text if text and "\ufffd" not in text else f"token_id:{id}"

    def _text_logprobs(self, tokens: list[Token]) -> dict[str, Any]:
        texts = [self._token_text(t.id) for t in tokens]
        offsets = [0]
        for text in texts:
            offsets.append(offsets[-1] + len(text))
        return {
            "tokens": texts,
            "token_logprobs": [t.logp for t in tokens],
            "top_logprobs": [self._best(t) for t in tokens],
            "text_offset": offsets[:-1],
        }

    def _best(self, token: Token) -> dict[str, float] | None:
        if token.logp is None:
            return None
        return {**{self._token_text(i): x for i, x in token.top}, self._token_text(token.id): token.logp}

    def _text_delta(self, at: int, piece: Piece, asked: Any, _first: bool) -> dict[str, Any]:
        logprobs = self._text_logprobs(list(piece.tokens)) if asked.logprobs is not None else None
        return {"index": at, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.reason}

    # chat

    async def chat(self, request: Request) -> Response:
        asked = parsed(Chat, await body(request))
        self._check(asked)
        if asked.max_completion_tokens is not None:
            asked.max_tokens = asked.max_completion_tokens
        messages = self._plain(asked.messages)
        ids = self._rendered(messages)
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        make = lambda put: self._asks(asked, [ids], None, top, False, put)  # noqa: E731
        query = lambda _: messages  # noqa: E731
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": self.name}
        if asked.stream:
            return await self._stream(
                request, make, asked, {**head, "object": "chat.completion.chunk"}, len(ids), self._chat_delta, query
            )
        answers = await self._whole(request, make, asked.n or 1, query)
        choices = [
            {
                "index": at, "message": {"role": "assistant", "content": text}, "finish_reason": reason,
                "logprobs": {"content": self._chat_logprobs(tokens)} if asked.logprobs else None,
            }
            for at, (text, tokens, reason) in enumerate(answers)
        ]  # fmt: skip
        written = sum(len(t) for _, t, _ in answers)
        return JSONResponse(
            {**head, "object": "chat.completion", "choices": choices, "usage": _usage(len(ids), written)}
        )

    def _plain(self, messages: list[dict[str, Any]]) -> list[dict[str, str]]:
        """A conversation as roles and texts."""
        plain = []
        for n, m in enumerate(messages):
            role, given = m.get("role"), m.get("content")
            if isinstance(given, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in given):
                given = "".join(str(p.get("text", "")) for p in given)
            if not isinstance(role, str) or not isinstance(given, str):
                raise Refused(400, f"messages[{n}]: needs a role and text as its content", param="messages")
            plain.append({"role": role, "content": given})
        return plain

    def _rendered(self, messages: list[dict[str, str]]) -> list[int]:
        """The ids of a conversation, through the tokenizer's chat template."""
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise Refused(400, "this model has no chat template; use /v1/completions", param="messages")
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a program of the model's maker
            raise Refused(400, f"messages: the chat template refuses them: {error}", param="messages") from None
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _chat_logprobs(self, tokens: list[Token] | tuple[Token, ...]) -> list[dict[str, Any]]:
        def told(id: int, logp: float | None) -> dict[str, Any]:
            text = self._token_text(id)
            return {"token": text, "logprob": logp, "bytes": list(text.encode())}

        return [told(t.id, t.logp) | {"top_logprobs": [told(i, x) for i, x in t.top]} for t in tokens]

    def _chat_delta(self, at: int, piece: Piece, asked: Any, first: bool) -> dict[str, Any]:
        delta = ({"role": "assistant"} if first else {}) | ({"content": piece.text} if piece.text or first else {})
        logprobs = {"content": self._chat_logprobs(piece.tokens)} if asked.logprobs else None
        return {"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": piece.reason}

    # streams

    async def _stream(
        self, request: Request, make: Any, asked: Shared, head: dict[str, Any], used: int,
        delta: Callable[[int, Piece, Any, bool], dict[str, Any]], query: Callable[[int], Prompt],
    ) -> Response:  # fmt: skip
        """Server-sent events; what is refused is refused before the first of them."""
        pieces = self._shown(request, make, query)
        begun = await anext(pieces, None)

        async def events() -> AsyncIterator[str]:
            seen: set[int] = set()
            written = 0
            try:
                async for at, piece in _chain(begun, pieces):
                    written += len(piece.tokens)
                    yield _event({**head, "choices": [delta(at, piece, asked, at not in seen)]})
                    seen.add(at)
                if (asked.stream_options or {}).get("include_usage"):
                    yield _event({**head, "choices": [], "usage": _usage(used, written)})
                yield "data: [DONE]\n\n"
            except Refused as refused:
                yield _event({"error": refused.error})
            except ClientDisconnect:
                return
            finally:
                await pieces.aclose()

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _chain(
    first: tuple[int, Piece] | None, rest: AsyncIterator[tuple[int, Piece]]
) -> AsyncIterator[tuple[int, Piece]]:
    if first is not None:
        yield first
    async for item in rest:
        yield item


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    """Returns when the client has gone away. The body has been read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
