"""What a request may say: OpenAI's fields, checked, and the errors that a bad one gets. Imports starlette."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

MAX_BODY = 8 << 20  # bytes
MAX_ROWS = 256  # answers that one request may ask for


class Refused(Exception):
    """A request that is not answered: a status and OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ):
        super().__init__(message)
        self.status, self.error = status, {"message": message, "type": kind, "param": param, "code": code}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": "1"} if self.status in (429, 503) else None
        return JSONResponse({"error": self.error}, self.status, headers)


# what a request may say

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},), "suffix": ("",), "best_of": (1,),
    "min_p": (0,), "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},),
    "use_beam_search": (False,), "min_tokens": (0,), "prompt_logprobs": (0,),
}  # fmt: skip


class Shared(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None  # -1 and 0: off
    n: Annotated[int, Field(ge=1, le=MAX_ROWS)] | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    ignore_eos: bool | None = None


class Completion(Shared):
    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None


class Chat(Shared):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None


class Tokenize(BaseModel):
    prompt: str
    add_special_tokens: bool = False


class Detokenize(BaseModel):
    tokens: list[int]


Given = TypeVar("Given", bound=BaseModel)


async def body(request: Request) -> Any:
    """The JSON of a request.

    Raises:
        Refused: it is too large, or none.
    """
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise Refused(413, f"the request is larger than {MAX_BODY >> 20} MB")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Refused(400, "the request is no JSON") from None


def parsed(kind: type[Given], data: Any) -> Given:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0]) if first["loc"] else None
        raise Refused(400, f"{param or 'request'}: {first['msg'].lower()}", param=param) from None
