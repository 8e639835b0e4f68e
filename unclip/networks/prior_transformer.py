"""The transformer of the diffusion prior."""

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attend, split_heads
from .checkpointing import Checkpointing
from .embeddings import TimeEmbedding


class TransformerBlock(nn.Module):
    """Pre-LN: attention, then a 4x MLP with the exact GELU (CLIP's text transformer, unCLIP's prior)."""

    def __init__(self, *, width, heads, head_dim):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.proj_out = nn.Linear(heads * head_dim, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def project(self, x):                                                               # (B, N, W)
        """Queries, keys and values, each (B, heads, N, D)."""
        return split_heads(self.qkv(self.norm_1(x)), 3, self.heads)

    def forward(self, x, mask, past=None):                                              # (B, N, W), (B, 1, N, M + N)
        """past: keys and values (B, 2, heads, M, D) of tokens before these. Returns the tokens (B, N, W), and their own
        keys and values."""
        q, k, v = self.project(x)                                                       # (B, heads, N, D)
        own = torch.stack([k, v], dim=1)                                                # (B, 2, heads, N, D)
        seen = own if past is None else torch.cat([past, own], dim=3)                   # (B, 2, heads, M + N, D)
        out = attend(q, *seen.unbind(1), mask)                                          # (B, heads, N, D)
        x = x + self.proj_out(out.transpose(1, 2).flatten(2))                           # (B, N, W)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x)))), own


class PriorTransformer(Checkpointing):
    """(x_t, t, text) -> raw output, as wide as the image embedding: the clean embedding, where trained so.

    Ramesh et al. 2022 (unCLIP), section 2.2: a decoder-only transformer with a causal mask over the text states, the
    text embedding, the time step, the noised image embedding and a learned query, whose output is the prediction.
    Karlo's prior: `embed_dim=768, text_dim=768, text_length=77, width=2048, layers=20, heads=32`.

    embed_dim: width of the image embedding.
    text_dim, text_length: width of the text states and their number.
    text_embed_dim: width of the text embedding; None: embed_dim.
    head_dim: None: width / heads. heads * head_dim may differ from width.
    time_token: False leaves the time step out, for a network that predicts in one step (Patel et al. 2023, ECLIPSE).
    """

    def __init__(self, *, embed_dim: int, text_dim: int, text_length: int, width: int, layers: int, heads: int,
                 head_dim: int | None = None, text_embed_dim: int | None = None, time_token: bool = True):
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: a transformer needs at least one")
        if head_dim is None:
            if width % heads:
                raise ValueError(f"heads={heads} does not divide width={width}: set head_dim")
            head_dim = width // heads
        self.embed_dim = embed_dim
        self.text_dim = text_dim
        self.text_length = text_length
        self.text_embed_dim = embed_dim if text_embed_dim is None else text_embed_dim

        self.text_states_proj = nn.Linear(text_dim, width)
        self.text_embed_proj = nn.Linear(self.text_embed_dim, width)
        self.time_embed = TimeEmbedding(channels=width, width=width) if time_token else None
        self.x_proj = nn.Linear(embed_dim, width)
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.after_text = 3 if time_token else 2  # tokens after the text embedding: time, x_t, query
        self.positions = nn.Parameter(0.02 * torch.randn(text_length + 1 + self.after_text, width))
        self.blocks = nn.ModuleList(TransformerBlock(width=width, heads=heads, head_dim=head_dim)
                                    for _ in range(layers))
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, embed_dim)
        self._initialise(layers)

    def _initialise(self, layers):
        """GPT-2's: every branch adds little at first, whatever the depth."""
        for block in self.blocks:
            for linear in (block.qkv, block.proj_out, block.mlp_in, block.mlp_out):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
            for linear in (block.proj_out, block.mlp_out):
                nn.init.normal_(linear.weight, std=0.02 * (2 * layers) ** -0.5)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_t, t, text_embed, text_states, text_mask):
        """x_t (B, D); t (B,); text_embed (B, text_embed_dim); text_states (B, L, text_dim); text_mask (B, L), True = a
        real token. -> (B, D)"""
        return self.denoise(x_t, t, self.read(text_embed, text_states, text_mask), text_mask)

    def read(self, text_embed, text_states, text_mask):
        """The text's keys and values in every layer, (B, layers, 2, heads, L + 1, D).

        The mask is causal and the text comes first, so they hold for every x_t and t: a caption is read once.
        """
        self._check(text_embed, text_states, text_mask)
        x = torch.cat([self.text_states_proj(text_states), self.text_embed_proj(text_embed)[:, None]], dim=1)
        text = text_states.shape[1] + 1
        x = x + self.positions[:text]                                                   # (B, L + 1, W)
        mask = self._mask(text_mask)[..., :text, :text]                                 # (B, 1, L + 1, L + 1)
        memory = []
        for block in self.blocks[:-1]:
            x, own = self.run(block, x, mask)
            memory.append(own)
        memory.append(torch.stack(self.blocks[-1].project(x)[1:], dim=1))  # what comes after them, nobody reads
        return torch.stack(memory, dim=1)

    def denoise(self, x_t, t, memory, text_mask):
        """x_t (B, D); t (B,); memory: as `read` gives it; text_mask (B, L). -> (B, D)"""
        check("x_t", x_t, (len(memory), self.embed_dim))
        check("t", t, (len(memory),))
        query = self.query.expand(len(x_t), -1)
        time = [] if self.time_embed is None else [self.time_embed(t)]
        x = torch.stack([*time, self.x_proj(x_t), query], dim=1)                        # (B, A, W), A = 3 or 2
        x = x + self.positions[-self.after_text:]
        mask = self._mask(text_mask)[..., -self.after_text:, :]                         # (B, 1, A, L + 1 + A)
        for block, past in zip(self.blocks, memory.unbind(1), strict=True):
            x, _ = self.run(block, x, mask, past)                                       # (B, A, W)
        return self.out(self.norm_out(x[:, -1]))                                        # (B, D)

    def _mask(self, text_mask):                                                         # (B, L)
        """Causal, and no token sees a padded one but a padded one itself: no row may be all False, and nothing reads
        what such a row returns."""
        real = F.pad(text_mask, (0, 1 + self.after_text), value=True)                   # (B, N)
        n = real.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=real.device).tril()
        itself = torch.eye(n, dtype=torch.bool, device=real.device)
        return (causal & real[:, None] | itself)[:, None]                               # (B, 1, N, N)

    def _check(self, text_embed, text_states, text_mask):
        batch = len(text_embed)
        check("text_embed", text_embed, (batch, self.text_embed_dim))
        check("text_states", text_states, (batch, self.text_length, self.text_dim))
        check("text_mask", text_mask, (batch, self.text_length))
        if text_mask.dtype != torch.bool:
            raise ValueError(f"text_mask must be boolean, True = a real token, not {text_mask.dtype}")


def check(name, tensor, shape):
    """Raises ValueError for a tensor of another shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the network takes {shape}")
