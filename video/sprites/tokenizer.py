"""A CLIP tokenizer for the language of the sprites world: every word of the grammar is one token, all else is spelt."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING

from .words import BACKGROUNDS, MOTIONS, SHAPES, SIZES, SPOKEN_DEFAULTS, STYLES, TEXTURES, VALUES

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MAX_TOKENS = 32  # start and end included; the longest caption has 24
START, END = "<|startoftext|>", "<|endoftext|>"


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
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    words = grammar_words()
    spelt = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    spelt.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", show_progress=False, special_tokens=[]
    )
    spelt.train_from_iterator([" ".join(words)], trainer)
    merges = [tuple(pair) for pair in _merges(spelt)]
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


def _merges(tokenizer: object) -> list[list[str]]:
    found = json.loads(tokenizer.to_str())["model"]["merges"]  # type: ignore[attr-defined]
    return [pair.split(" ") if isinstance(pair, str) else list(pair) for pair in found]
