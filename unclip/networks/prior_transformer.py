"""The transformer of the diffusion prior."""

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attend, split_heads
from .checkpointing import Checkpointing
from .embeddings import TimeEmbedding
from .sizes import check_sizes


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

    def forward(self, x, mask, past=None, wanted=slice(None)):                          # (B, N, W), (B, 1, N, M + N)
        """past: keys and values (B, 2, heads, M, D) of tokens before these; wanted: which tokens' results are read. Returns
        those tokens (B, n, W), and the keys and values of all N; with wanted=None no tokens, None."""
        q, k, v = split_heads(self.qkv(self.norm_1(x)), 3, self.heads)                  # (B, heads, N, D)
        own = torch.stack([k, v], dim=1)                                                # (B, 2, heads, N, D)
        if wanted is None:
            return None, own
        q, x, mask = q[:, :, wanted], x[:, wanted], mask[..., wanted, :]
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
        check_sizes(embed_dim=embed_dim, text_dim=text_dim, text_length=text_length, width=width, layers=layers, heads=heads,
                    head_dim=head_dim, text_embed_dim=text_embed_dim)
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
        self.query = nn.init.normal_(nn.Parameter(torch.empty(width)), std=0.02)
        positions = text_length + 1 + time_token + 2  # text states, text embedding, time, x_t, query
        self.positions = nn.init.normal_(nn.Parameter(torch.empty(positions, width)), std=0.02)
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
        """x_t (B, D); t (B,); text_embed (B, text_embed_dim); text_states (B, L, text_dim), L = text_length or, where the rest
        is padding in every text, less; text_mask (B, L), True = a real token. -> (B, D)"""
        return self.denoise(x_t, t, self.read(text_embed, text_states, text_mask), text_mask)

    def read(self, text_embed, text_states, text_mask):
        """The text's keys and values in every layer, (B, layers, 2, heads, L + 1, D).

        The mask is causal and the text comes first, so they hold for every x_t and t: a caption is read once.
        """
        self._check(text_embed, text_states, text_mask)
        x = torch.cat([self.text_states_proj(text_states), self.text_embed_proj(text_embed)[:, None]], dim=1)
        length = text_states.shape[1]
        text = length + 1
        end = self.text_length  # no list of places: on a GPU, that would wait
        positions = torch.cat([self.positions[:length], self.positions[end : end + 1]])  # (L + 1, W)
        x = x + positions                                                               # (B, L + 1, W)
        mask = self._mask(text_mask)[..., :text, :text]                                 # (B, 1, L + 1, L + 1)
        memory = []
        for block in self.blocks[:-1]:
            x, own = self.run(block, x, mask)
            memory.append(own)
        memory.append(self.run(self.blocks[-1], x, mask, None, None)[1])  # what comes after them, nobody reads
        return torch.stack(memory, dim=1)

    def denoise(self, x_t, t, memory, text_mask):
        """x_t (B n, D); t (B n,); memory: of B captions, as `read` gives it; text_mask (B, L). -> (B n, D)

        A caption has n rows next to each other, at one t. Their tokens stand in one sequence after those of text and time,
        and do not see those of other rows: so what holds for all rows is there once, whatever n.
        """
        captions = len(memory)
        n = max(1, len(x_t) // captions)
        check("x_t", x_t, (captions * n, self.embed_dim))
        check("t", t, (captions * n,))
        query = self.query.expand(len(x_t), -1)
        own = torch.stack([self.x_proj(x_t), query], dim=1) + self.positions[-2:]       # (B n, 2, W)
        x = own.reshape(captions, 2 * n, -1)
        if self.time_embed is not None:
            x = torch.cat([(self.time_embed(t[::n]) + self.positions[-3])[:, None], x], dim=1)
        mask = self._mask(text_mask, n)[..., -x.shape[1]:, :]                           # (B, 1, N, L + 1 + N)
        queries = slice(-2 * n + 1, None, 2)
        *blocks, last = zip(self.blocks, memory.unbind(1), strict=True)
        for block, past in blocks:
            x, _ = self.run(block, x, mask, past)                                       # (B, N, W), N = 1 + 2 n
        x, _ = self.run(last[0], x, mask, last[1], queries)                             # (B, n, W)
        return self.out(self.norm_out(x)).flatten(0, 1)                                 # (B n, D)

    def _mask(self, text_mask, n=1):                                                    # (B, L)
        """Causal, among text, time and each of the n rows after them, and no token sees a padded one but a padded one
        itself: no row of the mask may be all False, and nothing reads what such a row returns."""
        length = text_mask.shape[1]
        shared = length + 1 + (self.time_embed is not None)
        real = F.pad(text_mask, (0, shared - length + 2 * n), value=True)               # (B, N)
        row = torch.arange(1, n + 1, device=real.device).repeat_interleave(2)
        row = F.pad(row, (shared, 0))                                                   # (N,), 0 for what rows share
        causal = ((row == row[:, None]) | (row == 0)).tril()
        itself = torch.eye(len(row), dtype=torch.bool, device=real.device)
        return (causal & real[:, None] | itself)[:, None]                               # (B, 1, N, N)

    def _check(self, text_embed, text_states, text_mask):
        batch = len(text_embed)
        check("text_embed", text_embed, (batch, self.text_embed_dim))
        length = min(text_states.shape[1], self.text_length)
        check("text_states", text_states, (batch, length, self.text_dim))
        check("text_mask", text_mask, (batch, length))
        if text_mask.dtype != torch.bool:
            raise ValueError(f"text_mask must be boolean, True = a real token, not {text_mask.dtype}")


def check(name, tensor, shape):
    """Raises ValueError for a tensor of another shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the network takes {shape}")
