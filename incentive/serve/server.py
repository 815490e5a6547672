"""The process behind `incentive serve`: a model, its loop, and a web server. The only file that imports uvicorn."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incentive.files import RunError

if TYPE_CHECKING:
    from incentive.model.lean import Lean
    from incentive.safety.control import RiskControl

SLOTS = 64  # rows that decode together, memory permitting
GRACE_S = 5  # for requests at work when the server is asked to stop


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    slots: int | None = None,
    max_model_len: int | None = None,
    threads: int = 2,
    device: str = "cpu",
    say: Callable[[str], None] = print,
    control: str | None = None,
    keywords: Path | None = None,
) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        control: who reviews the answers to requests that hold one of the keywords; None: nobody.

    Raises:
        RunError: the port is taken, the extra is not installed, or the model's shape is none that the loop decodes.
        CheckpointError: the folder is not a usable checkpoint.
    """
    try:
        import uvicorn

        from incentive.serve.api import Api
    except ImportError as error:
        raise RunError(f"serving needs {error.name}\nInstall it: pip install 'incentive[serve]'") from None
    with contextlib.ExitStack() as held:
        listening = held.enter_context(contextlib.closing(_bound(host, port)))
        from incentive.engine import rows_that_fit
        from incentive.model.checkpoint import stop_ids
        from incentive.recipes import settle
        from incentive.serve.loop import Loop

        settle(threads)
        guard = _control(control, keywords, threads, device)  # before the rows are counted: a reviewer takes memory too
        if guard is not None:
            held.callback(guard.reviewer.close)
        folder, policy, tokenizer = _opened(model, device)
        context = min(policy.config.max_position_embeddings, max_model_len or policy.config.max_position_embeddings)
        rows = slots or rows_that_fit(policy, context, SLOTS)
        loop = Loop(policy, tokenizer, stop_ids(tokenizer, folder), rows, context)
        held.callback(loop.close)
        called = name or Path(model).resolve().name
        app = Api(loop, tokenizer, called, context, policy.config.vocab_size, rows, control=guard).app()
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", timeout_graceful_shutdown=GRACE_S, lifespan="off", access_log=False
            )
        )
        at, number = listening.getsockname()[:2]
        say(f"{called} at http://{at}:{number}/v1 ({rows} rows at once, context {context}); Ctrl-C stops")
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn has shut down and raises the signal anew
            say("stopped")


def _opened(model: str, device: str) -> tuple[Path, Lean, Any]:
    """Where a model lies, it and its tokenizer.

    Raises:
        RunError: its shape is none that the loop decodes.
        CheckpointError: the folder is not a usable checkpoint.
    """
    from incentive.compare import model_folder
    from incentive.model.checkpoint import load_policy, resolve
    from incentive.model.lean import Lean

    folder = resolve(model_folder(model))
    policy, tokenizer = load_policy(folder, device=device)
    if not isinstance(policy, Lean):
        raise RunError(
            f"{folder}: the server decodes Llama, Mistral, Qwen2, Qwen3 and Gemma shapes, not {policy.config.model_type}\n"
            "Serve it with vllm serve or transformers serve; the checkpoint opens there as it is."
        )
    policy.requires_grad_(False)
    return folder, policy, tokenizer


def _control(who: str | None, keywords: Path | None, threads: int, device: str) -> RiskControl | None:
    if who is None:
        return None
    from incentive.safety.control import KEYWORDS, Keywords, RiskControl
    from incentive.safety.review import reviewer

    return RiskControl(Keywords(keywords or KEYWORDS), reviewer(who, None, threads, device))


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket, before a model is loaded for nothing.

    Raises:
        RunError: the address is none of ours, or taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)  # asyncio sends small packets at once only where TCP is named
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
        fix = "Give another --port." if error.errno in (errno.EADDRINUSE, errno.EACCES) else "Give another --host."
        raise RunError(f"cannot listen on {host}:{port}: {why}\n{fix}") from None
    return found
