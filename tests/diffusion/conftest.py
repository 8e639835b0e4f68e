import pytest
import torch

from unclip.diffusion import Schedule


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """These tensors are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["linear", "cosine"])
def schedule(request):
    return Schedule.named(request.param, 1000)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
