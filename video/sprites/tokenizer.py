"""A CLIP tokenizer for the language of the sprites world: every word of the grammar is one token, all else is spelt."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .words import BACKGROUNDS, MOTIONS, SHAPES, SIZES, SPOKEN_DEFAULTS, STYLES, TEXTURES, VALUES

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_TOKENS = 32  # start and end included; the longest caption has 24
START, END = "<|startoftext|>", "<|endoftext|>"
Pair = tuple[str, str]


def grammar_words() -> list[str]:
    """All words that captions are made of, in alphabetical order."""
    tables = (TEXTURES, SIZES, MOTIONS, BACKGROUNDS, STYLES, SPOKEN_DEFAULTS)
    phrases = itertools.chain(VALUES["colour"], SHAPES, *(table.values() for table in tables), ("a", "an"))
    return sorted({word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)})


def build_tokenizer() -> CLIPTokenizer:
    """A `transformers.CLIPTokenizer` of about a thousand entries: bytes, bytes that end a word, and merges.

    Byte pairs are merged as in CLIP's own vocabulary (Sennrich et al. 2016; Radford et al. 2021), learnt on the words
    of the grammar until each is one token. Deterministic.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    merges = learnt_merges(grammar_words())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # pairs; the annotation knows files only
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def learnt_merges(words: Sequence[str]) -> list[Pair]:
    """Byte pairs in the order in which they are merged, the most frequent first and of equals the first in the
    alphabet, until each of the words, which count once, is one token."""
    spelt = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[Pair] = []
    while counts := Counter(pair for symbols in spelt for pair in itertools.pairwise(symbols)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelt = [_merged(symbols, best) for symbols in spelt]
    return merges


def _merged(symbols: Sequence[str], pair: Pair) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out
