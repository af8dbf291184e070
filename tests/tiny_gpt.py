"""A decoder-only transformer, small enough for a test, as language models are built."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Output:
    """What language models of the Hugging Face kind return."""

    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Block(nn.Module):
    """Causal attention and a feed-forward part, both with dropout."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.keys = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = dropout

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        drop = self.dropout if self.training else 0.0
        parts = self.keys(self.norm(hidden)).unsqueeze(1).chunk(3, dim=-1)
        seen = nn.functional.scaled_dot_product_attention(*parts, dropout_p=drop, is_causal=True).squeeze(1)
        hidden = hidden + self.joined(seen)
        inner = nn.functional.gelu(self.wide(self.between(hidden)))
        return hidden + nn.functional.dropout(self.narrow(inner), drop, self.training)


class TinyGPT(nn.Module):
    """Tokens in, logits of the next token out."""

    def __init__(self, vocabulary: int, length: int, *, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def features(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def forward(self, input_ids: torch.Tensor) -> Output:
        return Output(self.head(self.features(input_ids)))
