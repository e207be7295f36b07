"""The encoder of all-MiniLM-L6-v2 in plain PyTorch: BERT of 6 layers, mean pooling, unit length."""

from __future__ import annotations

import torch
from torch import nn

WORDS = 30_522
POSITIONS = 512
WIDTH = 384
INNER = 1536
HEADS = 12
LAYERS = 6
EPSILON = 1e-12
# Added to the scores of padding: e to this power is zero, and FP16 can hold it.
MASKED = -10_000.0


class Attention(nn.Module):
    """Self-attention of `HEADS` heads over [batch, tokens, WIDTH]; `mask` is 0 on words and `MASKED` on padding."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query, key, value = (self._split(layer(tokens)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5
        mixed = (scores + mask).softmax(dim=-1) @ value
        joined: torch.Tensor = self.output(mixed.transpose(1, 2).reshape(tokens.shape))
        return joined

    def _split(self, tokens: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, WIDTH] as [batch, HEADS, tokens, WIDTH // HEADS]."""
        return tokens.reshape(tokens.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)


class Layer(nn.Module):
    """Attention and two dense layers with GELU between, each added to its input and normalised after."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.attention_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.wide, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tokens = self.attention_norm(tokens + self.attention(tokens, mask))
        changed = self.narrow(nn.functional.gelu(self.wide(tokens)))
        normal: torch.Tensor = self.norm(tokens + changed)
        return normal


class SentenceEncoder(nn.Module):
    """INT64 `input_ids` and `attention_mask` [batch, tokens] to one embedding of length 1, FP32 [batch, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        tokens = self.norm(self.words(input_ids) + self.positions(places))
        weights = attention_mask.to(tokens.dtype)
        mask = (1 - weights)[:, None, None, :] * MASKED
        for layer in self.layers:
            tokens = layer(tokens, mask)
        shares = weights.unsqueeze(-1)
        mean = (tokens * shares).sum(dim=1) / shares.sum(dim=1)
        return nn.functional.normalize(mean, dim=1)
