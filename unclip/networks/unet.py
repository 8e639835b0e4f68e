"""The U-Net of ADM, as unCLIP's decoder and upsamplers use it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from .attention import AttentionBlock
from .checkpointing import Checkpointing
from .embeddings import TimeEmbedding
from .norms import NORMS
from .resblock import ResBlock, downsample, silu, upsample
from .sizes import check_sizes


class Layer(nn.Module):
    """A residual block and, at some levels, attention after it, whose share of `context_kv` begins at `kv_at`.

    A skip joins here, so that checkpointing keeps no second copy of it.
    """

    def __init__(self, block, attention=None, kv_at=0):
        super().__init__()
        self.block = block
        self.attention = attention
        self.kv_at = kv_at

    def forward(self, x, emb, context_kv, context_mask, skip=None):                     # (B, C, H, W), (B, E), ...
        x = x if skip is None else torch.cat([x, skip], dim=1)
        x = self.block(x, emb)                                                          # (B, C', H', W')
        if self.attention is None:
            return x
        if context_kv is not None:
            context_kv = context_kv[..., self.kv_at:self.kv_at + 2 * x.shape[1]]        # (B, M, 2C')
        return self.attention(x, context_kv, context_mask)


class UNet(Checkpointing):
    """(x_t, t, emb, context) -> raw output: noise, image or velocity, with variance channels or not, as trained.

    Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis" (ADM), with the conditioning of Ramesh et
    al. 2022 (unCLIP, section 2.1): a vector added to the time embedding, and tokens whose keys and values join those
    of every attention layer. With `channels=320, multipliers=[1, 2, 3, 4], num_res_blocks=3, norm="group"` it has
    the shape of Karlo's decoder and upsamplers.

    in_channels, out_channels: of the image given and the output.
    channels, multipliers: level i has channels * multipliers[i] channels; level 0 has the highest resolution.
    num_res_blocks: residual blocks a level on the way down (one more on the way up): one number, or one a level.
    attention_levels: indices of the levels with attention after each residual block.
    middle_attention: attention between the two residual blocks of the middle.
    head_dim: channels of an attention head; needed where there is attention.
    context_dim: width of the context tokens; None: no context.
    norm: "group", as in ADM and Karlo, or "layer", over the channels of a pixel: on a CPU the whole network trains a
        quarter faster.
    scale_shift: let the embedding scale and shift (True) or only be added.
    patch: 2 folds 2x2 pixels into channels before the first convolution and unfolds them after the last; 1 does not.

    `emb` is `time_embed_dim` wide (4 * channels); projecting to it is the caller's.
    """

    def __init__(self, *, in_channels: int, out_channels: int, channels: int, multipliers: list[int],
                 num_res_blocks: int | list[int], attention_levels: list[int], middle_attention: bool,
                 head_dim: int | None = None, context_dim: int | None = None, norm: Literal["group", "layer"] = "group",
                 scale_shift: bool = True, patch: int = 1, dropout: float = 0.0):
        super().__init__()
        check_sizes(channels=channels, multipliers=multipliers, head_dim=head_dim, context_dim=context_dim)
        check_sizes(0, num_res_blocks=num_res_blocks, attention_levels=attention_levels)
        levels = len(multipliers)
        if isinstance(num_res_blocks, int):
            num_res_blocks = [num_res_blocks] * levels
        if len(num_res_blocks) != levels:
            raise ValueError(f"num_res_blocks={num_res_blocks} names {len(num_res_blocks)} levels, "
                             f"multipliers={multipliers} {levels}")
        if not set(attention_levels) <= set(range(levels)):
            raise ValueError(f"attention_levels={attention_levels}: there are levels 0 to {levels - 1}")
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r}: choose one of {sorted(NORMS)}")
        has_attention = bool(attention_levels) or middle_attention
        if has_attention and head_dim is None:
            raise ValueError("head_dim is needed where there is attention")
        if context_dim is not None and not has_attention:
            raise ValueError(f"context_dim={context_dim}, but no attention layer to read the context")
        if patch not in (1, 2):
            raise ValueError(f"patch={patch}: choose 1 or 2")
        self.in_channels = in_channels
        self.context_dim = context_dim
        self.patch = patch
        self.time_embed_dim = 4 * channels
        self.downsampling = patch * 2 ** (levels - 1)   # image sizes must be multiples of this

        def block(c_in, c_out, resample=None):
            return ResBlock(in_channels=c_in, out_channels=c_out, embed_dim=self.time_embed_dim, norm=norm,
                            scale_shift=scale_shift, dropout=dropout, resample=resample)

        self.kv_width = 0               # of the keys and values of all attention layers

        def layer(c_in, c_out, attends):
            if not attends:
                return Layer(block(c_in, c_out))
            kv_at, self.kv_width = self.kv_width, self.kv_width + 2 * c_out
            attention = AttentionBlock(channels=c_out, head_dim=head_dim, context_dim=context_dim, norm=norm)
            return Layer(block(c_in, c_out), attention, kv_at)

        self.time_embed = TimeEmbedding(channels=channels, width=self.time_embed_dim)
        widths = [channels * m for m in multipliers]
        c = widths[0]
        self.conv_in = nn.Conv2d(in_channels * patch ** 2, c, 3, padding=1)
        skips = [c]
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks[level]):
                self.down.append(layer(c, width, level in attention_levels))
                c = width
                skips.append(c)
            if level < levels - 1:
                self.down.append(Layer(block(c, c, downsample)))
                skips.append(c)

        self.middle = nn.ModuleList([layer(c, c, middle_attention), layer(c, c, False)])

        self.up = nn.ModuleList()      # a list of layers a level, lowest resolution first
        for level, width in reversed(list(enumerate(widths))):
            layers = nn.ModuleList()
            for _ in range(num_res_blocks[level] + 1):
                layers.append(layer(c + skips.pop(), width, level in attention_levels))
                c = width
            self.up.append(layers)
        self.upsample = nn.ModuleList(Layer(block(width, width, upsample)) for width in reversed(widths[1:]))

        self.norm_out = NORMS[norm](c)
        self.conv_out = nn.Conv2d(c, out_channels * patch ** 2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x_t, t, emb=None, context=None, context_mask=None):
        """x_t (B, C, H, W); t (B,); emb (B, time_embed_dim); context (B, M, context_dim); context_mask (B, M), True =
        a token to attend to. -> (B, out_channels, H, W)"""
        return self.denoise(x_t, t, emb, None if context is None else self.read(context), context_mask)

    def read(self, context):
        """The keys and values of the context (B, M, context_dim) in every attention layer, (B, M, kv_width).

        They hold for every x_t and t: a context is read once.
        """
        if self.context_dim is None:
            raise ValueError("context is given, but the network has context_dim=None")
        if context.shape[-1] != self.context_dim:
            raise ValueError(f"context is {context.shape[-1]} wide, context_dim is {self.context_dim}")
        blocks = [module for module in self.modules() if isinstance(module, AttentionBlock)]
        return torch.cat([block.read(context) for block in blocks], dim=-1)

    def denoise(self, x_t, t, emb=None, context_kv=None, context_mask=None):
        """As `forward`, with the context as `read` gives it."""
        self._check(x_t, t, emb, context_kv, context_mask)
        e = self.time_embed(t)                                                          # (B, E)
        e = F.silu(e if emb is None else e + emb)
        condition = e, context_kv, context_mask

        x = F.pixel_unshuffle(x_t, self.patch) if self.patch > 1 else x_t
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))               # (B, channels, H', W')
        skips = [x]
        for layer in self.down:
            x = self.run(layer, x, *condition)
            skips.append(x)                                                             # (B, C_level, H_level, W_level)
        for layer in self.middle:
            x = self.run(layer, x, *condition)
        for level, layers in enumerate(self.up):
            for layer in layers:
                x = self.run(layer, x, *condition, skips.pop())
            if level < len(self.upsample):
                x = self.run(self.upsample[level], x, *condition)
        x = self.conv_out(silu(self.norm_out(x)))                                       # (B, out * patch^2, H', W')
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x                  # (B, out_channels, H, W)

    def _check(self, x_t, t, emb, context_kv, context_mask):
        """One line about what is wrong, before a convolution says it in ten."""
        batch, height, width = len(x_t), *x_t.shape[-2:]
        if x_t.shape[1] != self.in_channels:
            raise ValueError(f"x_t has {x_t.shape[1]} channels, the network takes {self.in_channels}")
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(f"image size {height}x{width} is not divisible by {self.downsampling}, "
                             "the factor by which the network downsamples")
        if tuple(t.shape) != (batch,):
            raise ValueError(f"t has shape {tuple(t.shape)}, the batch needs ({batch},)")
        if emb is not None and tuple(emb.shape) != (batch, self.time_embed_dim):
            raise ValueError(f"emb has shape {tuple(emb.shape)}, the network takes ({batch}, {self.time_embed_dim})")
        if (context_kv is None) != (self.context_dim is None):
            raise ValueError(f"context is {'missing' if context_kv is None else 'given'}, "
                             f"but the network has context_dim={self.context_dim}")
        if context_kv is not None and context_kv.shape[-1] != self.kv_width:
            raise ValueError(f"context_kv is {context_kv.shape[-1]} wide, the network's is {self.kv_width}")
        if context_mask is not None and (context_kv is None or context_mask.shape != context_kv.shape[:2]):
            raise ValueError(f"context_mask has shape {tuple(context_mask.shape)}, "
                             f"context {None if context_kv is None else tuple(context_kv.shape[:2])}")
        if context_mask is not None and context_mask.dtype != torch.bool:
            raise ValueError(f"context_mask must be boolean, True = a token to attend to, not {context_mask.dtype}")
