"""What is tested here patches torch for good, so each test runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from myna.plan.memory.fake_cuda import fake_mode, make_fake

pytestmark = pytest.mark.slow

TRAIN = """
import torch, torch.utils.checkpoint
from torch import nn
from torch.nn import functional as F
from myna.plan.memory import fake_cuda

fake_cuda.install()
fake_cuda.install()  # a second time does nothing
mode = fake_cuda.fake_mode()
with torch.device("meta"):
    model = nn.Linear(64, 3 * 64)
fake_cuda.make_fake(model, mode, fake_cuda.CUDA)
seen = []


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        seen.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def layer(x, mask):
    q, k, v = model(x).view(2, 50, 3, 4, 16).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def run(kernel, masked):
    seen.clear()
    with fake_cuda.attention_kernel(kernel), mode, Watch():
        x = torch.zeros(2, 50, 64, device=fake_cuda.CUDA)
        mask = torch.ones(2, 1, 1, 50, dtype=torch.bool, device=fake_cuda.CUDA) if masked else None
        with torch.autocast("cuda", torch.float16):
            out = torch.utils.checkpoint.checkpoint(layer, x, mask, use_reentrant=False)
        assert out.dtype == torch.float16 and out.device.type == "cuda"
        out.float().sum().backward()
    assert model.weight.grad.device.type == "cuda" and model.weight.grad.shape == (192, 64)
    model.zero_grad()
    return {name for name in seen if "attention" in name and "backward" not in name}


assert run("flash", False) == {"_scaled_dot_product_flash_attention"}
assert run("flash", True) == {"_scaled_dot_product_efficient_attention"}
assert run("efficient", True) == {"_scaled_dot_product_efficient_attention"}
assert run("math", False) == set() and "bmm" in seen
print("trained")
"""

MISSING = """
from myna.errors import PlanningUnavailableError
from myna.plan.memory import fake_cuda
del fake_cuda.fake_tensor.FakeTensor._normalize_fake_device
try:
    fake_cuda.install()
except PlanningUnavailableError as error:
    print("refused:", error)
"""


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_fake_cuda_tensors_train_under_autocast_and_checkpointing() -> None:
    assert run(TRAIN) == "trained\n"


def test_a_torch_without_the_private_parts_is_refused() -> None:
    said = run(MISSING)
    assert said.startswith("refused: torch ")
    assert "_normalize_fake_device" in said


def test_shared_parameters_stay_shared() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
        model[1].weight = model[0].weight
    make_fake(model, fake_mode(), torch.device("cpu"))
    assert model[1].weight is model[0].weight
    assert isinstance(model[0].weight, nn.Parameter)
    assert model[0].weight.device.type == "cpu"
    assert len(list(model.parameters())) == 1
