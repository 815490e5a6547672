"""inspect: the likeliest answer of the chat endpoint, compared with what the engine itself writes."""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import exact
from inspect_ai.solver import generate


@task
def mini() -> Task:
    data = json_dataset(str(Path.cwd() / "inspect.jsonl"))
    return Task(dataset=data, solver=generate(), scorer=exact(), config=GenerateConfig(temperature=0, max_tokens=120))
