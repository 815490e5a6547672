"""What every command shares: options, its output, and how what it raises becomes an exit code and a line or two.

Exit codes: 0 done; 1 a fault of ours (with a traceback) or a training that diverged; 2 something for the user to mend,
in one or two lines; 130 stopped by the user; 141 the reader of the output went away.

Imports nothing of the package but `terminal`, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from incentive.terminal import ascii_only, printable, silence

if TYPE_CHECKING:
    from incentive.config import Sampling

# options

Model = Annotated[
    str,
    typer.Argument(help="Checkpoint folder, run directory (its last model), or a name: base-mini.", show_default=False),
]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Nucleus; the paper's is 0.95.")]
Longest = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")]
Threads = Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Control = Annotated[
    str | None,
    typer.Option(
        "--risk-control",
        help="Review answers to risky requests. By: an endpoint's .toml, a model, a safety reward model.",
    ),
]
Keywords = Annotated[
    Path | None, typer.Option("--keywords", help="The risk control's words, one a line.  [default: ours]")
]


def controlled(control: str | None, keywords: Path | None) -> None:
    """Keywords come with a risk control.

    Raises:
        ConfigError: they do not.
    """
    from incentive.config import ConfigError

    if keywords is not None and control is None:
        raise ConfigError("--keywords belong to a risk control\nGive its reviewer with --risk-control.")


def sampling(max_tokens: int, temperature: float, top_p: float) -> Sampling:
    """How answers are drawn, from the options of a command.

    Raises:
        ConfigError: one is out of range.
    """
    from pydantic import ValidationError

    from incentive import config

    try:
        return config.Sampling.model_validate({"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens})
    except ValidationError as error:
        raise config.ConfigError(
            config.explain(error, config.Sampling).replace("max_tokens:", "--max-tokens:")
        ) from None


# output


def put(text: str = "") -> None:
    """A line of a command's result."""
    print(printable(text, ascii_only()))


def tell(found: dict[str, Any], told: Callable[[dict[str, Any]], Iterable[str]], as_json: bool) -> None:
    """A result, in words or as JSON."""
    for line in [json.dumps(found, indent=2)] if as_json else told(found):
        put(line)


def counter() -> Callable[[str, int, int], None]:
    """Progress on stderr, where that is a terminal."""
    last = 0.0

    def count(name: str, done: int, total: int) -> None:
        nonlocal last
        if sys.stderr.isatty() and (time.monotonic() - last > 0.25 or done == total):
            last = time.monotonic()
            end = "\r\033[K" if done == total else ""
            print(f"\r{name} {done}/{total}\033[K{end}", end="", file=sys.stderr, flush=True)

    return count


# faults


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors that are the user's to mend; only modules already loaded can have raised theirs."""
    found: list[type[Exception]] = []
    for module, names in (
        ("incentive.config", ["ConfigError"]), ("incentive.files", ["RunError"]), ("incentive.rewards", ["RewardError"]),
        ("incentive.model.checkpoint", ["CheckpointError"]), ("incentive.ledger", ["LedgerError"]),
        ("incentive.tasks.jsonl", ["TaskError"]), ("incentive.compare", ["CompareError"]),
        ("incentive.verify.sandbox", ["SandboxMissing", "SandboxDown"]),
    ):  # fmt: skip
        if module in sys.modules:
            found += [kind for n in names if (kind := getattr(sys.modules[module], n, None))]
    return tuple(found)


def _asked_too_much(error: BaseException) -> bool:
    """A ValueError that a task, the mixture of tasks or a template raised on purpose: its last frame lies there."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    here = Path(__file__).parent
    ours = {here / "tasks/__init__.py", here / "tasks/jsonl.py", here / "chat.py"}
    return isinstance(error, ValueError) and trace is not None and Path(trace.tb_frame.f_code.co_filename) in ours


_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.EFBIG,
)  # fmt: skip


def _refused(error: BaseException) -> str | None:
    """A file that the system does not let us read or write, in words."""
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    if error.filename is None:  # the output is a full disk, and Python would try again at exit
        silence()
    return f"{error.filename or 'the output'}: {os.strerror(error.errno).lower()}"


def fail(text: object, code: int) -> int:
    """Say on stderr what went wrong; the exit code."""
    try:
        print(printable(str(text), ascii_only(sys.stderr)), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)
    return code


def _terminated(number: int, frame: Any) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Turn what a command raises into an exit code and a line or two."""
    code = 1
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    before: Any = None
    with contextlib.suppress(ValueError):  # not the main thread
        before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
        sys.stdout.flush()
        return
    except typer.Exit:
        raise
    except BrokenPipeError:
        silence()
        code = 141
    except KeyboardInterrupt:
        code = fail("\nstopped", 130)
    except FloatingPointError as error:
        advice = "The last checkpoint is kept. Lower rl.optim.learning_rate and go on with --resume."
        code = fail(f"the training diverged: {error}\n{advice}", 1)
    except Exception as error:
        stopped = getattr(sys.modules.get("incentive.stage"), "Stopped", None)
        if stopped and isinstance(error, stopped):
            code = fail(error, 130)
        elif isinstance(error, _mistakes()) or _asked_too_much(error):
            code = fail(f"error: {error}", 2)
        elif said := _refused(error):
            code = fail(f"error: {said}", 2)
        elif isinstance(error, MemoryError) or "not enough memory" in str(error):
            sizes = "rl.engine.max_num_seqs, rl.learner.tokens_per_micro_batch or rl.sampling.max_tokens"
            code = fail(f"error: out of memory\nLower {sizes}.", 2)
        else:
            raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    raise typer.Exit(code)
