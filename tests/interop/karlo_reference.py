"""Networks with the names and the tensor layouts of Karlo's checkpoints, written from its description alone.

Slow and plain: what `unclip.interop.karlo_layout` reads is compared with what these compute.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

HEAD = 64


def sinusoids(t, width):
    steps = torch.arange(width // 2) / (width // 2)
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * steps)[None]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def time_mlp(width_in, width):
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width))


def per_head(x, parts):
    """(B, N, heads * parts * HEAD), head by head, into its parts (B, heads, N, HEAD)."""
    batch, length, width = x.shape
    x = x.reshape(batch, length, width // (parts * HEAD), parts, HEAD)
    return [x[:, :, :, k].transpose(1, 2) for k in range(parts)]


def softmax_attention(q, k, v, mask):
    weights = (q @ k.transpose(-1, -2) / HEAD**0.5 + mask).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_qkv, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask):
        return self.c_proj(softmax_attention(*per_head(self.c_qkv(x), 3), mask))


class Perceptron(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width)
        self.ln_2, self.mlp = nn.LayerNorm(width), Perceptron(width)

    def forward(self, x, mask):
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Prior(nn.Module):
    """(x_t, t, text) -> x_0 of standardised embeddings."""

    def __init__(self, dim, width, layers, length):
        super().__init__()
        self.width = width
        self.time_embed = time_mlp(width, width)
        self.text_enc_proj, self.text_emb_proj = nn.Linear(dim, width), nn.Linear(dim, width)
        self.clip_img_proj, self.out_proj = nn.Linear(dim, width), nn.Linear(width, dim)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.final_ln = nn.LayerNorm(width)
        self.positional_embedding = nn.Parameter(torch.zeros(1, length + 4, width))
        self.prd_emb = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x_t, t, text_embed, text_states, text_mask):
        time = self.time_embed(sinusoids(t, self.width))
        single = [self.text_emb_proj(text_embed), time, self.clip_img_proj(x_t), self.prd_emb[0].expand(len(x_t), -1)]
        x = torch.cat([self.text_enc_proj(text_states), torch.stack(single, 1)], 1) + self.positional_embedding
        length = x.shape[1]
        hidden = ~F.pad(text_mask, (0, 4), value=True)[:, None, None] | torch.ones(length, length).triu(1).bool()
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.out_proj(self.final_ln(x)[:, -1])


class Residual(nn.Module):
    def __init__(self, c_in, c_out, embed, shift, resample=None):
        super().__init__()
        self.shift, self.resample = shift, resample or (lambda x: x)
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.Identity(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embed, (2 if shift else 1) * c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.Identity(), nn.Identity(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, emb, context=None, mask=None):
        h = self.in_layers[2](self.resample(F.silu(self.in_layers[0](x))))
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.shift:
            scale, shift = emb.chunk(2, 1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + emb)
        return self.skip_connection(self.resample(x)) + self.out_layers[3](F.silu(h))


class PixelAttention(nn.Module):
    def __init__(self, channels, context):
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(32, channels), nn.Conv1d(channels, 3 * channels, 1)
        self.encoder_kv, self.proj_out = nn.Conv1d(context, 2 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x, emb, context, mask):
        q, k, v = per_head(self.qkv(self.norm(x).flatten(2)).transpose(1, 2), 3)
        context_k, context_v = per_head(self.encoder_kv(context).transpose(1, 2), 2)
        k, v = torch.cat([context_k, k], 2), torch.cat([context_v, v], 2)
        mask = F.pad(mask, (0, q.shape[2]))[:, None, None]
        out = softmax_attention(q, k, v, mask)
        return x + self.proj_out(out.transpose(1, 2)).reshape(x.shape)


class Layers(nn.Sequential):
    def forward(self, x, *condition):
        for layer in self:
            x = layer(x, *condition) if not isinstance(layer, nn.Conv2d) else layer(x)
        return x


class UNet(nn.Module):
    """ADM's U-Net with resampling residual blocks."""

    def __init__(self, c_in, c_out, channels, multipliers, blocks, attention_levels=(), context=None, shift=True):
        super().__init__()
        self.channels, embed = channels, 4 * channels
        self.time_embed = time_mlp(channels, embed)
        attention = lambda level, c: [PixelAttention(c, context)] if level in attention_levels else []  # noqa: E731
        half = lambda x: F.avg_pool2d(x, 2)  # noqa: E731
        double = lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)  # noqa: E731
        c = channels
        self.input_blocks = nn.ModuleList([Layers(nn.Conv2d(c_in, c, 3, padding=1))])
        skips = [c]
        for level, m in enumerate(multipliers):
            for _ in range(blocks):
                self.input_blocks.append(Layers(Residual(c, m * channels, embed, shift), *attention(level, m * channels)))
                c = m * channels
                skips.append(c)
            if level < len(multipliers) - 1:
                self.input_blocks.append(Layers(Residual(c, c, embed, shift, half)))
                skips.append(c)
        middle = [PixelAttention(c, context)] if attention_levels else []
        self.middle_block = Layers(Residual(c, c, embed, shift), *middle, Residual(c, c, embed, shift))
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(multipliers))):
            for k in range(blocks + 1):
                layers = [Residual(c + skips.pop(), m * channels, embed, shift), *attention(level, m * channels)]
                c = m * channels
                if level and k == blocks:
                    layers.append(Residual(c, c, embed, shift, double))
                self.output_blocks.append(Layers(*layers))
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.Identity(), nn.Conv2d(c, c_out, 3, padding=1))

    def run(self, x, t, emb=0.0, context=None, mask=None):
        condition = self.time_embed(sinusoids(t, self.channels)) + emb, context, mask
        skips = []
        for layers in self.input_blocks:
            x = layers(x, *condition)
            skips.append(x)
        x = self.middle_block(x, *condition)
        for layers in self.output_blocks:
            x = layers(torch.cat([x, skips.pop()], 1), *condition)
        return self.out[2](F.silu(self.out[0](x)))

    forward = run


class Decoder(UNet):
    """(x_t, t, image embedding, text) -> eps and the variance's place."""

    def __init__(self, dim, context, tokens=4, **options):
        super().__init__(3, 6, context=context, **options)
        self.tokens, embed = tokens, 4 * self.channels
        self.clip_emb, self.text_feat_proj = nn.Linear(dim, embed), nn.Linear(dim, embed)
        self.text_seq_proj = nn.Sequential(nn.Linear(dim, context), nn.LayerNorm(context))
        self.clip_tok_proj = nn.Linear(dim, context * tokens)
        self.cf_param = nn.Parameter(torch.zeros(dim))

    def forward(self, x_t, t, image_embed, text_embed, text_states, text_mask):
        emb = self.clip_emb(image_embed) + self.text_feat_proj(text_embed)
        tokens = self.clip_tok_proj(image_embed).reshape(len(x_t), -1, self.tokens)  # the tokens are the last axis
        context = torch.cat([tokens, self.text_seq_proj(text_states).transpose(1, 2)], 2)
        seen = F.pad(text_mask, (self.tokens, 0), value=True)
        return self.run(x_t, t, emb, context, torch.zeros(seen.shape).masked_fill(~seen, -torch.inf))
