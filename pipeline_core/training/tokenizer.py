"""The starter prior's tokenizer: a CLIPTokenizer in which every known word is one token.

Byte-pair merges are learnt greedily on the word list itself until every word is whole, so a word never falls apart
because another word's merges came first (only digits stand alone: CLIP splits "3d" into "3", "d"). Unknown words fall
into letters and pieces; they do not fail.

    tokenizer = build_tokenizer(["a", "red", "mushroom"], max_length=24)
    tokenizer("a red mushroom").input_ids
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from pipeline_core.priors import text

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
ALPHABET = string.ascii_lowercase + string.digits + string.punctuation


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first and ties in alphabetical order, until every word is one symbol."""
    split = [(*word[:-1], word[-1] + END_OF_WORD) for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for symbols in split for pair in pairwise(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merge(symbols, best) for symbols in split]
    return merges


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(symbols):
        if symbols[i : i + 2] == pair:
            out.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return tuple(out)


def build_tokenizer(words: Iterable[str], *, max_length: int = 24) -> CLIPTokenizer:
    """A CLIPTokenizer of ``words`` (lower case, letters and digits) plus single characters for everything else."""
    merges = learn_merges(words)
    symbols = [*ALPHABET, *(c + END_OF_WORD for c in ALPHABET), *(a + b for a, b in merges)]
    vocab = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
    vocab[START] = len(vocab)
    vocab[END] = len(vocab)
    return CLIPTokenizer(
        vocab=vocab, merges=merges, unk_token=END, bos_token=START, eos_token=END, pad_token=END,
        model_max_length=max_length,
    )  # fmt: skip


def embeddings_by_token(tokenizer: CLIPTokenizer, known: Tensor, start: Path) -> Tensor:
    """Embeddings [V, D] of the tokens of ``tokenizer``: those ``known`` [V', D] of the model in ``start`` by the token;
    those that are new are drawn as wide as the others are."""
    places = CLIPTokenizer.from_pretrained(start / "tokenizer", local_files_only=True).get_vocab()
    shape = len(tokenizer), known.shape[1]
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * known.std() + known.mean(0)
    for token, at in tokenizer.get_vocab().items():
        if token in places:
            value[at] = known[places[token]]
    return value


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [B, L], padded to the tokenizer's length."""
    return text.tokenize(tokenizer, captions, tokenizer.model_max_length).input_ids
