"""dalle2-pytorch's side of training: the same step on its own networks of about as many parameters, in its environment."""

import contextlib

import torch
from dalle2_pytorch import Decoder, DiffusionPrior, DiffusionPriorNetwork, Unet

DIM, LENGTH, TOKENS = 128, 24, 10  # as on our side


def build(part, batch, dtype, threads, device="cpu"):
    """part: "decoder" or "prior"."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    embeds = torch.randn(batch, DIM, device=device)
    if part == "decoder":
        # cond_dim must differ from image_embed_dim: where they are equal, its image tokens have no shape that it takes
        unet = Unet(dim=64, image_embed_dim=DIM, cond_dim=64, dim_mults=(1, 2, 3), cond_on_image_embeds=True)
        model = Decoder(unet=(unet,), image_sizes=(32,), timesteps=1000, learned_variance=False)
        images = torch.rand(batch, 3, 32, 32, device=device)

        def loss():
            return model(images, image_embed=embeds, unet_number=1)

    else:
        network = DiffusionPriorNetwork(dim=DIM, depth=6, dim_head=64, heads=2, max_text_len=LENGTH)
        model = DiffusionPrior(network, image_embed_dim=DIM, timesteps=1000, cond_drop_prob=0.1)
        texts, states = torch.randn(batch, DIM, device=device), torch.randn(batch, LENGTH, DIM, device=device)
        states[:, TOKENS:] = 0  # how it is told of padding

        def loss():
            return model(text_embed=texts, image_embed=embeds, text_encodings=states)

    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    half = torch.autocast(torch.device(device).type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    def step():
        with half:
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in model.parameters())
