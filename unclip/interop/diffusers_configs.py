"""diffusers' configs of unCLIP's parts, as far as they describe networks that are among ours; their defaults are diffusers'.

A value that would make another network is an error that names its key. Keys that change nothing here are not looked at.
"""

from typing import Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from ..config import check
from ..errors import UserError
from ..files import read_json


class Foreign(BaseModel):
    """A config file of another library: it may say more than we read."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=(), allow_inf_nan=False)

    @classmethod
    def read(cls, path):
        """From a file.

        Raises:
            UserError: there is none, it is cut off, of another class, or describes what is not among ours.
        """
        try:
            values = read_json(path)
        except OSError:
            raise UserError(f"no file {path}: the folder lacks the part {path.parent.name}; copy it again") from None
        except ValueError:
            raise UserError(f"{path} is damaged: copy it again") from None
        return check(cls, values, path)


class PriorTransformer(Foreign):
    kind: Literal["PriorTransformer"] = Field(alias="_class_name")
    num_attention_heads: PositiveInt = 32
    attention_head_dim: PositiveInt = 64
    num_layers: PositiveInt = 20
    embedding_dim: PositiveInt = 768
    num_embeddings: PositiveInt = 77
    additional_embeddings: Literal[3, 4] = 4
    time_embed_act_fn: Literal["silu"] = "silu"
    norm_in_type: Literal[None] = None
    embedding_proj_norm_type: Literal[None] = None
    encoder_hid_proj_type: Literal["linear"] = "linear"
    added_emb_type: Literal["prd"] = "prd"
    time_embed_dim: Optional[PositiveInt] = None
    embedding_proj_dim: Optional[PositiveInt] = None
    clip_embed_dim: Optional[PositiveInt] = None

    @property
    def width(self):
        return self.num_attention_heads * self.attention_head_dim


class UNet(Foreign):
    """What both U-Nets share."""

    sample_size: PositiveInt
    block_out_channels: list[PositiveInt] = Field(min_length=1)
    layers_per_block: PositiveInt = 2
    down_block_types: list[str]
    up_block_types: list[str]
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    dropout: float = Field(0.0, ge=0, lt=1)
    act_fn: Literal["silu"] = "silu"
    norm_num_groups: Literal[32] = 32
    norm_eps: float = Field(1e-5, ge=1e-5, le=1e-5)
    flip_sin_to_cos: Literal[True] = True
    freq_shift: Literal[0] = 0
    center_input_sample: Literal[False] = False
    time_embedding_type: Literal["positional"] = "positional"
    mid_block_scale_factor: float = Field(1.0, ge=1, le=1)


class UNet2DConditionModel(UNet):
    kind: Literal["UNet2DConditionModel"] = Field(alias="_class_name")
    in_channels: Literal[3]
    out_channels: Literal[3, 6]
    cross_attention_dim: PositiveInt
    attention_head_dim: PositiveInt
    mid_block_type: Literal["UNetMidBlock2DSimpleCrossAttn"]
    class_embed_type: Literal["identity"]
    class_embeddings_concat: Literal[False] = False
    addition_embed_type: Literal[None] = None
    encoder_hid_dim: Literal[None] = None
    encoder_hid_dim_type: Literal[None] = None
    only_cross_attention: Literal[False, None] = False
    cross_attention_norm: Literal[None] = None
    num_attention_heads: Literal[None] = None
    time_cond_proj_dim: Literal[None] = None
    time_embedding_dim: Literal[None] = None
    time_embedding_act_fn: Literal[None] = None
    timestep_post_act: Literal[None] = None
    resnet_skip_time_act: Literal[False] = False
    resnet_out_scale_factor: float = Field(1.0, ge=1, le=1)
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3


class UNet2DModel(UNet):
    kind: Literal["UNet2DModel"] = Field(alias="_class_name")
    in_channels: Literal[6]
    out_channels: Literal[3]
    add_attention: Literal[False]
    class_embed_type: Literal[None] = None
    num_class_embeds: Literal[None] = None
    attn_norm_num_groups: Literal[None] = None


class UnCLIPTextProjModel(Foreign):
    kind: Literal["UnCLIPTextProjModel"] = Field(alias="_class_name")
    clip_extra_context_tokens: PositiveInt = 4
    clip_embeddings_dim: PositiveInt = 768


class UnCLIPScheduler(Foreign):
    kind: Literal["UnCLIPScheduler"] = Field(alias="_class_name")
    num_train_timesteps: PositiveInt = 1000
    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    clip_sample: bool = True
    clip_sample_range: Optional[float] = Field(1.0, gt=0)
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
