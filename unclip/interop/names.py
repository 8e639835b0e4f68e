"""The same parameters under three names: ours, Karlo's (which are ADM's) and diffusers'.

All that differs between the tensors of the layouts stands in this file. A rule says how one of our tensors is made from theirs, and
how theirs are made from it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange

KARLO, DIFFUSERS = 0, 1  # columns of the tables below

BLOCK = {
    "norm_1": ("in_layers.0", "norm1"),
    "conv_1": ("in_layers.2", "conv1"),
    "embed": ("emb_layers.1", "time_emb_proj"),
    "norm_2": ("out_layers.0", "norm2"),
    "conv_2": ("out_layers.3", "conv2"),
    "skip": ("skip_connection", "conv_shortcut"),
}
ATTENTION = {"norm": ("norm", "group_norm"), "proj_out": ("proj_out", "to_out.0")}
UNET = {
    "conv_in": ("input_blocks.0.0", "conv_in"),
    "time_embed.linear_1": ("time_embed.0", "time_embedding.linear_1"),
    "time_embed.linear_2": ("time_embed.2", "time_embedding.linear_2"),
    "norm_out": ("out.0", "conv_norm_out"),
    "conv_out": ("out.2", "conv_out"),
}
PRIOR = {
    "text_states_proj": ("text_enc_proj", "encoder_hidden_states_proj"),
    "text_embed_proj": ("text_emb_proj", "embedding_proj"),
    "time_embed.linear_1": ("time_embed.0", "time_embedding.linear_1"),
    "time_embed.linear_2": ("time_embed.2", "time_embedding.linear_2"),
    "x_proj": ("clip_img_proj", "proj_in"),
    "norm_out": ("final_ln", "norm_out"),
    "out": ("out_proj", "proj_to_clip_embeddings"),
}
PRIOR_TOKENS = {"query": ("prd_emb", "prd_embedding"), "positions": ("positional_embedding", "positional_embedding")}
PRIOR_BLOCKS = ("transformer.resblocks", "transformer_blocks")
PRIOR_BLOCK = {
    "norm_1": ("ln_1", "norm1"),
    "proj_out": ("attn.c_proj", "attn1.to_out.0"),
    "norm_2": ("ln_2", "norm3"),
    "mlp_in": ("mlp.c_fc", "ff.net.0.proj"),
    "mlp_out": ("mlp.c_proj", "ff.net.2"),
}
# queries, keys and values: in Karlo one tensor, in diffusers one each
FUSED = {
    "attention.qkv": ("qkv", ("to_q", "to_k", "to_v")),
    "attention.context_kv": ("encoder_kv", ("add_k_proj", "add_v_proj")),
    "qkv": ("attn.c_qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
}
CONDITION = {
    "text_to_tokens": ("text_seq_proj.0", "encoder_hidden_states_proj"),
    "text_norm": ("text_seq_proj.1", "text_encoder_hidden_states_norm"),
    "text_to_time": ("text_feat_proj", "embedding_proj"),
    "image_to_time": ("clip_emb", "clip_image_embeddings_project_to_time_embeddings"),
}
IMAGE_TO_TOKENS = ("clip_tok_proj", "clip_extra_context_tokens_proj")
NULL_IMAGE = ("cf_param", "learned_classifier_free_guidance_embeddings")
STATISTICS = {"mean": "clip_mean", "std": "clip_std"}  # in diffusers; Karlo has a file for them


@dataclass(frozen=True)
class Rule:
    """One of our tensors and theirs.

    ours: its key in our state dict; theirs: their keys; to_ours: their tensors -> our values, in any shape of as many
    numbers; to_theirs: our tensor -> their values, a list, likewise.
    """

    ours: str
    theirs: tuple[str, ...]
    to_ours: Callable = lambda tensor: tensor
    to_theirs: Callable = lambda tensor: [tensor]


def prior_rules(prior, layout, prefix=""):
    """The rules of a DiffusionPrior, less its statistics."""
    net = prior.transformer
    table = {ours: theirs for ours, theirs in PRIOR.items() if net.time_embed is not None or "time_embed" not in ours}
    rules = _same(table, layout, "transformer.", prefix)
    for ours, theirs in PRIOR_TOKENS.items():
        rules.append(Rule(f"transformer.{ours}", (prefix + theirs[layout],), to_theirs=lambda t: [_ranked(t, 3)]))
    for k, block in enumerate(net.blocks):
        ours, theirs = f"transformer.blocks.{k}.", f"{prefix}{PRIOR_BLOCKS[layout]}.{k}."
        rules += _same(PRIOR_BLOCK, layout, ours, theirs)
        rules += _fused("qkv", layout, ours + "qkv", theirs, block.heads)
    return rules


def statistics_rules():
    """The rules of a DiffusionPrior's mean and deviation."""
    return [Rule(ours, (theirs,), to_theirs=lambda t: [_ranked(t, 2)]) for ours, theirs in STATISTICS.items()]


def unet_rules(unet, layout, ours="unet.", prefix=""):
    """The rules of a UNet that is `ours` in its part's state dict."""
    rules = _same(UNET, layout, ours, prefix)
    for module, *theirs in unet_places(unet):
        at, there = f"{ours}{module}.", f"{prefix}{theirs[layout]}."
        layer = unet.get_submodule(module)
        if module.endswith(".block"):
            names = {k: v for k, v in BLOCK.items() if list(layer.get_submodule(k).parameters())}  # skip may be nothing
            rules += _same(names, layout, at, there)
            continue
        rules += _same(ATTENTION, layout, at, there)
        for fused in ("qkv", "context_kv") if layer.context_kv is not None else ("qkv",):
            rules += _fused(f"attention.{fused}", layout, at + fused, there, layer.heads)
    return rules


def unet_places(unet):
    """(our module, Karlo's, diffusers') for every residual block and every attention, in the order in which they run."""
    levels, per_level = len(unet.up), len(unet.up[0])  # residual blocks on the way up: one more than on the way down
    attention = lambda layer, *names: [names] if layer.attention is not None else []  # noqa: E731
    for k, layer in enumerate(unet.down):
        level, j = divmod(k, per_level)
        last = j == per_level - 1
        theirs = f"down_blocks.{level}.downsamplers.0" if last else f"down_blocks.{level}.resnets.{j}"
        yield f"down.{k}.block", f"input_blocks.{k + 1}.0", theirs
        yield from attention(layer, f"down.{k}.attention", f"input_blocks.{k + 1}.1", f"down_blocks.{level}.attentions.{j}")
    yield "middle.0.block", "middle_block.0", "mid_block.resnets.0"
    yield from attention(unet.middle[0], "middle.0.attention", "middle_block.1", "mid_block.attentions.0")
    place = 2 if unet.middle[0].attention is not None else 1
    yield "middle.1.block", f"middle_block.{place}", "mid_block.resnets.1"
    for level in range(levels):
        for j, layer in enumerate(unet.up[level]):
            k = level * per_level + j
            yield f"up.{level}.{j}.block", f"output_blocks.{k}.0", f"up_blocks.{level}.resnets.{j}"
            names = f"up.{level}.{j}.attention", f"output_blocks.{k}.1", f"up_blocks.{level}.attentions.{j}"
            yield from attention(layer, *names)
        if level < levels - 1:
            place = 2 if unet.up[level][-1].attention is not None else 1
            yield f"upsample.{level}.block", f"output_blocks.{k}.{place}", f"up_blocks.{level}.upsamplers.0"


def condition_rules(decoder, layout, prefix=""):
    """The rules of what a Decoder does with embeddings and captions: diffusers' text_proj."""
    rules = _same(CONDITION, layout, "", prefix)
    tokens = decoder.image_tokens
    for leaf in ("weight", "bias"):  # in both layouts the tokens are the fastest index
        rules.append(Rule(
            f"image_to_tokens.{leaf}", (f"{prefix}{IMAGE_TO_TOKENS[layout]}.{leaf}",),
            lambda t: rearrange(t, "(channel token) ... -> (token channel) ...", token=tokens),
            lambda t: [rearrange(t, "(token channel) ... -> (channel token) ...", token=tokens)],
        ))  # fmt: skip
    return [*rules, Rule("null_image", (prefix + NULL_IMAGE[layout],))]


def _ranked(tensor, rank):
    """A tensor with as many axes as asked for, new ones first."""
    return tensor.reshape(*[1] * (rank - tensor.ndim), *tensor.shape)


def _same(table, layout, ours, theirs):
    """Weight and bias of modules that differ in their names alone."""
    return [
        Rule(f"{ours}{mine}.{leaf}", (f"{theirs}{names[layout]}.{leaf}",))
        for mine, names in table.items()
        for leaf in ("weight", "bias")
    ]


def _fused(name, layout, ours, theirs, heads):
    """Queries, keys and values of one projection. Ours come part by part; Karlo's head by head, each head's parts together;
    diffusers' as a layer each."""
    karlo, split = FUSED[name]
    parts = len(split)
    if layout == KARLO:
        to_ours = lambda t: rearrange(t, "(head part d) ... -> (part head d) ...", head=heads, part=parts)  # noqa: E731
        to_theirs = lambda t: [rearrange(t, "(part head d) ... -> (head part d) ...", head=heads, part=parts)]  # noqa: E731
        keys = (karlo,)
    else:
        to_ours, to_theirs, keys = lambda *t: torch.cat(t), lambda t: t.chunk(parts), split
    return [
        Rule(f"{ours}.{leaf}", tuple(f"{theirs}{key}.{leaf}" for key in keys), to_ours, to_theirs)
        for leaf in ("weight", "bias")
    ]
