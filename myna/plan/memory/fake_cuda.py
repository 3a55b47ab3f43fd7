"""CUDA tensors without CUDA: fake ones that run forward, autocast, backward and checkpointing on any machine.

torch has fake tensors (`FakeTensorMode`), but a build without CUDA aborts when it goes backward through fake CUDA
tensors, and `autocast("cuda")` switches itself off. What `install` does about it uses torch's private parts, holds for
the whole process and cannot be undone: call it in a process of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo  # the first use of fake tensors would import it, in the midst of a step
import torch._subclasses.fake_tensor as fake_tensor
import torch.cuda.amp.common
from torch import Tensor, nn
from torch.nn import functional as F

from myna.errors import PlanningUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from myna.plan.request import Attention

aten = torch.ops.aten
CUDA = torch.device("cuda:0")
CPU = torch.device("cpu")
MASK_ALIGNMENT = 16  # elements; the efficient kernel's mask rows are padded to it

_alive: list[Any] = []  # what C++ points to, for the life of the process


def install() -> None:
    """Make backward and autocast work on fake CUDA tensors, process-wide and for good.

    Raises:
        PlanningUnavailableError: this torch lacks the private parts.
    """
    if _alive:
        return
    try:
        if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
            _register_device_guard()
        _answer_cpu_inside_the_engine()
        # One device only, so that no step can mix "cuda" with "cuda:0" or with the CPU.
        _replace(fake_tensor.FakeTensor, "_normalize_fake_device", staticmethod(lambda device: CUDA))
        _replace(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        _replace(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    except (AttributeError, KeyError, OSError) as error:
        raise PlanningUnavailableError(
            f"torch {torch.__version__}: expected the private parts that fake CUDA tensors need; received {error!r}",
            "Install a torch release that Myna is tested with.",
        ) from error
    _alive.append(True)


def _replace(owner: Any, name: str, value: Any) -> None:
    getattr(owner, name)  # an AttributeError here is better than a patch that nobody calls
    setattr(owner, name, value)


def _register_device_guard() -> None:
    """Give a CPU-only build a device guard for CUDA whose every method answers 0; torch puts its no-op in front."""
    library = ctypes.CDLL(str(Path(torch.__path__[0]) / "lib" / "libc10.so"))
    register = library["_ZN3c104impl19registerDeviceGuardENS_10DeviceTypeEPKNS0_24DeviceGuardImplInterfaceE"]
    zero = ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: 0)
    table = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
    guard = (ctypes.c_void_p * 2)(ctypes.addressof(table), 0)
    _alive.extend((zero, table, guard))
    register(ctypes.c_int8(1), ctypes.byref(guard))  # 1 is CUDA
    torch._C._ensureCUDADeviceGuardSet()


def _answer_cpu_inside_the_engine() -> None:
    """The C++ engine wants streams for CUDA gradients: inside it, and only there, say that tensors are on the CPU."""
    real_device = fake_tensor._DISPATCH_META_HANDLERS[torch.ops.prim.device.default]
    real_run = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    depth = 0

    def answer(args: Any) -> torch.device:
        found: Any = real_device(args)  # type: ignore[no-untyped-call]
        in_engine = depth > 0 and (torch._C._current_graph_task_id() == -1 or not torch.is_grad_enabled())
        device: torch.device = CPU if in_engine and found.type == "cuda" else found
        return device

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            return real_run(*args, **kwargs)
        finally:
            depth -= 1

    fake_tensor._DISPATCH_META_HANDLERS[torch.ops.prim.device.default] = answer
    torch.autograd._engine_run_backward = run  # type: ignore[attr-defined]


def fake_mode() -> fake_tensor.FakeTensorMode:
    """The mode that fake tensors live in; it never runs a real kernel."""
    return fake_tensor.FakeTensorMode(allow_fallback_kernels=False)


def make_fake(module: nn.Module, mode: fake_tensor.FakeTensorMode, device: torch.device) -> None:
    """Turn the meta tensors of a module into fake ones on `device`; what was shared stays shared."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for owned in (part._parameters, part._buffers):
            for name, tensor in owned.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = fake_tensor.FakeTensor(mode, tensor.detach().to("meta"), device)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                owned[name] = made[id(tensor)]  # type: ignore[assignment]


@contextlib.contextmanager
def attention_kernel(kernel: Attention) -> Iterator[None]:
    """Scaled dot-product attention by the kernel named, while inside: torch would ask the device which one to take."""
    real = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = _attention(kernel)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real


def _attention(kernel: Attention) -> Callable[..., Tensor]:
    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        if enable_gqa:
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        given, how = (query, key, value), (dropout_p, is_causal)
        mask = None if attn_mask is None else _additive(attn_mask, query.dtype)
        if kernel in ("math", "eager"):
            return _first(aten._scaled_dot_product_attention_math, *given, mask, *how, scale=scale)
        # Flash takes no mask and no fp32: torch falls back on the efficient kernel.
        if kernel == "flash" and mask is None and query.dtype != torch.float32:
            return _first(aten._scaled_dot_product_flash_attention, *given, *how, scale=scale)
        if mask is not None:
            mask = _aligned(mask).expand(*query.shape[:3], key.shape[2])
        goes_backward = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
        return _first(aten._scaled_dot_product_efficient_attention, *given, mask, goes_backward, *how, scale=scale)

    return attention


def _first(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    """The output alone of a kernel that returns more."""
    out: Tensor = kernel(*args, **kwargs)[0]
    return out


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers that are added to the scores."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), -1e4)
    return mask.to(dtype)


def _aligned(mask: Tensor) -> Tensor:
    """Rows padded, as torch does it where they need to be; here always, so that all batches take the same course."""
    return F.pad(mask, (0, -mask.shape[-1] % MASK_ALIGNMENT))[..., : mask.shape[-1]]
