"""Prompts and answers as text. The only file that knows the tags.

The R1-Zero template (paper, table 1, in our own words) is plain completion text with no chat tokens. The miniature's
template keeps its frame and leaves its instructions out: to a model of a million parameters they would be noise, and
they would be half of all tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)

_R1_ZERO = (
    "A conversation between a User and an Assistant. The User asks a question and the Assistant solves it. "
    "The Assistant first reasons in its mind and then gives the User the answer. The reasoning stands between "
    f"{THINK} and {END_THINK}, the answer between {ANSWER} and {END_ANSWER}, in this order: "
    f"{THINK} reasoning here {END_THINK} {ANSWER} answer here {END_ANSWER}. User: {{prompt}}. Assistant:"
)
_MINI = "User: {prompt}\nAssistant:"

_WELL_FORMED = re.compile(rf"\s*{THINK}(?P<think>.*?){END_THINK}\s*{ANSWER}(?P<answer>.*?){END_ANSWER}\s*", re.DOTALL)


def text_of(prompt: str | list[dict[str, str]]) -> str:
    """A prompt as one text, whatever its form."""
    return prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)


def render(template: str, prompt: str | list[dict[str, str]], tokenizer: Any = None) -> str:
    """The text that the policy continues.

    Args:
        template: `mini`, `r1-zero` (paper, table 1), or `chat` (the tokenizer's own chat template).

    Raises:
        ValueError: the template is unknown, or `chat` is asked of a tokenizer that has none or one that fails.
    """
    if template == "chat":
        if getattr(tokenizer, "chat_template", None) is None:
            raise ValueError("the tokenizer has no chat template: use template = 'r1-zero'")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a program of the model's maker
            raise ValueError(
                f"the chat template fails: {type(error).__name__}: {error}\nUse template = 'r1-zero'."
            ) from error
    if template not in ("mini", "r1-zero"):
        raise ValueError(f"unknown template {template!r}: choose mini, r1-zero or chat")
    text = text_of(prompt)
    return (_MINI if template == "mini" else _R1_ZERO).replace("{prompt}", text)


def split(text: str) -> tuple[str, str | None]:
    """(thinking, answer) of a response; the answer is None where none is marked.

    Lenient in order to measure, strict about which answer counts: the answer is the last closed `<answer>` block after
    the last `</think>`, so that an answer inside the thinking is none.
    """
    head, sep, tail = text.rpartition(END_THINK)
    thinking = (head if sep else text.partition(ANSWER)[0]).replace(THINK, "").strip()
    closed = tail.partition(THINK)[0].split(END_ANSWER)[
        :-1
    ]  # a thought that is opened again and not closed is thinking
    found = [part.partition(ANSWER)[2] for part in closed if ANSWER in part]
    return thinking, found[-1].strip() if found else None


def summary(text: str) -> str:
    """What a reader gets of a response: all that stands after the thinking, without the answer's tags.

    Empty where a thought is opened and not closed. A text without thinking is all summary.
    """
    shown = text.rpartition(END_THINK)[2].partition(THINK)[0]
    for tag in (ANSWER, END_ANSWER):
        shown = shown.replace(tag, "")
    return shown.strip()


def well_formed(text: str) -> bool:
    """Exactly one thinking block, then exactly one answer block, and nothing else (paper 2: format reward)."""
    if any(text.count(tag) != 1 for tag in TAGS):  # first: on many tags the pattern would take long
        return False
    found = _WELL_FORMED.fullmatch(text)
    return found is not None and bool(found["answer"].strip())


def summarised(text: str) -> bool:
    """As `well_formed`, with a summary for the reader between the thinking and the answer (paper 4.1)."""
    head, _, tail = text.partition(END_THINK)
    between, _, rest = tail.partition(ANSWER)
    return bool(between.strip()) and well_formed(f"{head}{END_THINK}{ANSWER}{rest}")


def perfect(thinking: str, answer: str, summary: str = "") -> str:
    """A response in the required form."""
    return f"{THINK}{thinking}{END_THINK}{summary}{ANSWER}{answer}{END_ANSWER}"


Render = Callable[[str | list[dict[str, str]]], str]

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ 'User: ' if m['role'] == 'user' else 'Assistant:' }}{{ m['content'] }}"
    "{% if m['role'] != 'user' %}{{ eos_token }}{% endif %}{{ '\\n' if m['role'] == 'user' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
