"""Choose how texts are read: the quickest of the ways that give the tokenizers library's own ids.

Each way is refused by what tokenizer.json says, and then by a list of texts that is read both ways at load.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rerankq_worker.model.pieces import piece_reader
from rerankq_worker.model.words import ReadText, Unfit, WordReader, word_reader
from rerankq_worker.scoring import TokenIds

TextReader = Callable[[str], TokenIds]

PROBES = (
    "The giant panda, a bear (endemic to China) eats 38.5 kg of bamboo: naïve, Émile's x_y-z #1 <b>…",
    "  two  blanks\ta tab\n a line\r\n \u00a0no\u3000break\u200bwide\u2028line\x0bv\x1cfs\x85nel ",
    "大熊猫是中国特有的熊科动物，以竹子为食。什么？！（四川）「甘肅」 パンダは竹を食べる。 한국어 문장",
    "ｶﾞ ＰＡＮＤＡ ① ﬁne ½ ㈜ ㍿ Ⅷ ㎏ ℃ № ﷺ ª™ \u00b4a \u2126",
    "e\u0301te\u0301 \u0301alone a\u0308\u0323 हिन्दी में किताबें ไทยน้ำ ქართული עִבְרִית مَرْحَبًا नि\u0301",
    "Большая панда живёт. مرحبا بالعالم، ١٢٣ שלום Ελλάδα ςΣ İstanbul ı ß ẞ Ǆ",
    "😀 a👩‍👩‍👧b ❤️ 👍🏽 🇨🇳🇩🇪 1️⃣ 𝕏 𠮷 \U000e0041",
    "\u1112\u1161\u11ab \u3147\u314f \uac00\u11a8 \u2581 a\u2581b \u200d \u202e \ue000",
    "\x00 a\x01b \x1f \x7f \ufeff \ufffd \u2581 a\u2581b \u200d \u202e \ue000",
    "<s> </s> <pad><unk>x<mask> </s>NOTUSED [CLS][SEP] ##a <|endoftext|> <0x0A>",
    "walking, walked; classes! studies? The THE tHe don't can't 1,000,000 3rd a.b@c.de https://x.org/a?b=c&d=%20",
    "....... ---- !!! hahahahaha xxxxxxxx ＝＝＝ ________ 哈哈哈哈哈 。。。",
    "a" * 300 + " " + "熊" * 200 + " " + "x1-" * 99,
    " ",
    "",
)
"""Texts of many scripts and of all that libraries are known to read in their own ways."""

logger = logging.getLogger(__name__)


def quickest_reader(
    directory: Path,
    definition: Mapping[str, Any],
    tokenizer: Tokenizer,
    frame: Collection[str],
    own_tokens: Collection[str],
) -> TextReader | None:
    """Gives a text's ids as `tokenizer` does; None where nothing but the tokenizer itself is known to.

    Args:
        definition: what tokenizer.json says; `tokenizer` was made of it.
        frame: tokens that no text may produce.
        own_tokens: added tokens that are found in texts.
    """

    def whole(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    def by_words(word: ReadText) -> WordReader:
        return _proven(word_reader(definition, own_tokens, word, whole, normalize), whole)

    normalizer: Any = tokenizer.normalizer
    normalize = normalizer.normalize_str if normalizer else str
    try:
        reader = by_words(whole)
    except Unfit as why:
        logger.info("%s: texts are read by the tokenizers library: %s", directory, why)
        return None
    try:
        reader = by_words(piece_reader(definition, frame, own_tokens, whole))
    except Unfit as why:
        logger.info("%s: words are read by the tokenizers library: %s", directory, why)
    else:
        logger.info("%s: words are read by sentencepiece", directory)
    return reader


def _proven(reader: WordReader, whole: ReadText) -> WordReader:
    for number, text in enumerate(PROBES):
        if reader(text).tolist() != list(whole(text)):
            raise Unfit(f"probe {number} is read otherwise")
    return reader
