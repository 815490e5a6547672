"""What the tests share: a tiny model, made once a session from documents of the corpus."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama checkpoint of 2 layers, hidden 32, about 320 tokens, random weights. Read only: copy it to change it."""
    from incentive import tokenizer
    from incentive.config import Model, Pretrain
    from incentive.corpus import Habits, document
    from incentive.model.checkpoint import save_policy
    from incentive.stages.pretrain import init, text_of

    shape = Model(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        vocab_size=320,
        max_position_embeddings=512,
    )
    documents = [document(0, i, Habits()) for i in range(300)]
    texts = [text_of(d.prompt, d.response) for d in documents]
    coder = tokenizer.train(texts, shape.vocab_size, "together", shape.max_position_embeddings)
    policy = init(Pretrain(model=shape), 0, coder.eos_token_id, coder.pad_token_id)
    folder = tmp_path_factory.mktemp("tiny") / "tiny-model"
    save_policy(folder, policy, coder)
    return folder
