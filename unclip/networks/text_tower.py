"""The text tower of CLIP."""

import torch
from torch import nn

from .prior_transformer import TransformerBlock
from .sizes import check_sizes


class TextTower(nn.Module):
    """Tokens -> the text embedding and the state of every token: a causal transformer (Radford et al. 2021, section 2.4).

    The arguments are OpenCLIP's, of a text tower with no other settings. Its weights hold no numbers until they are loaded.
    """

    def __init__(self, *, embed_dim: int, context_length: int, vocab_size: int, width: int, heads: int, layers: int):
        super().__init__()
        check_sizes(embed_dim=embed_dim, context_length=context_length, width=width, heads=heads, layers=layers)
        if width % heads:
            raise ValueError(f"heads={heads} does not divide width={width}")
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.blocks = nn.ModuleList(TransformerBlock(width=width, heads=heads, head_dim=width // heads)
                                    for _ in range(layers))
        self.norm_out = nn.LayerNorm(width)
        self.projection = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, tokens):                                                          # (B, L)
        """-> (B, D), (B, L, W). Pooled is the state of the end token, which is the largest number of all tokens."""
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        x = self.token_embedding(tokens) + self.positions                               # (B, L, W)
        for block in self.blocks:
            x, _ = block(x, mask)
        states = self.norm_out(x)
        end = torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=1)
        return states[end] @ self.projection, states
