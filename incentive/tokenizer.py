"""The miniature's tokenizer: byte-level BPE, so that it can write any text, trained on the corpus it will read.

Numbers are cut into pairs of digits (or single digits), never merged with what stands beside them. The four tags are
one token each and stay in the text; only the end and padding tokens are special.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from incentive import chat

END, PAD = "<|end|>", "<|pad|>"


def train(
    texts: Iterable[str], vocab_size: int, digits: Literal["together", "apart"], context: int
) -> PreTrainedTokenizerBase:
    """A tokenizer of exactly `vocab_size` tokens at most, as transformers and vLLM load it."""
    number = r"\d{2}|\d" if digits == "together" else r"\d"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"{number}| ?\p{{L}}+|\n| ?[^\s\p{{L}}\d]|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(chat.TAGS), special_tokens=[END, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(list(chat.TAGS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=context,
        chat_template=chat.CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip
