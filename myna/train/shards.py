"""A model whose parameters are spread over ranks, by torch's FSDP2, and the whole of it for what needs one.

Every forward and backward pass needs all ranks at once, layer by layer. So what ranks do each at their own pace, such
as decoding, takes a whole copy, which waits in main memory; checkpoints are written from it, as those of any other run.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from myna.models.parts import parts_of

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from myna.models.recognizer import Recognizer


class Shards:
    """Spreads a recogniser's parameters, gradients and, once it is made, optimizer state over all ranks.

    Args:
        recognizer: whole and the same on every rank; its model is changed in place.
        world_size: number of ranks.
        device: where this rank trains.
    """

    def __init__(self, recognizer: Recognizer, world_size: int, device: torch.device) -> None:
        model: Any = recognizer.model.to("cpu")  # type: ignore[arg-type]
        self._model = model
        self._whole = copy.copy(recognizer)
        self._whole.model = copy.deepcopy(model)
        self._mesh: Any = init_device_mesh(device.type, (world_size,))
        for layer in _layers(model):
            fully_shard(layer, mesh=self._mesh)
        fully_shard(model, mesh=self._mesh)  # all the rest
        # Of every linear head's output; nothing of ours is changed in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

    def gathered(self) -> Recognizer:
        """The whole recogniser in main memory; to be called by all ranks."""
        whole: Any = self._whole.model
        with torch.no_grad():
            for mine, other in zip(self._model.parameters(), whole.parameters(), strict=True):
                other.copy_(whole_tensor(mine))
            for mine, other in zip(self._model.buffers(), whole.buffers(), strict=True):
                other.copy_(mine)
        return self._whole

    def let_go(self) -> None:
        """Forget the ranks' process group, which caches of torch would hold to the interpreter's end, by the mesh."""
        getattr(self._mesh, "_pg_registry", {}).clear()


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all ranks, who all call this; what is not spread, as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(optimizer: Optimizer, *, keep: bool) -> dict[str, Any]:
    """An optimizer's `state_dict` with whole tensors in main memory; to be called by all ranks.

    Args:
        optimizer: of a model that is spread.
        keep: whether this rank needs the result, or only gives its parts.
    """
    state: dict[str, Any] = optimizer.state_dict()
    whole: dict[int, dict[str, Any]] = {}
    for position, values in state["state"].items():
        for name, value in values.items():
            full = whole_tensor(value) if isinstance(value, torch.Tensor) else value
            if keep:
                whole.setdefault(position, {})[name] = full.cpu() if isinstance(full, torch.Tensor) else full
    return state | {"state": whole}


def spread_like(value: Any, parameter: Tensor) -> Any:
    """This rank's part of what all have whole, where the parameter that it belongs to is spread; else as it is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, torch.Tensor) or value.shape != parameter.shape:
        return value
    # No source rank: each takes its part of what it has.
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _layers(model: Any) -> list[nn.Module]:
    """What is gathered and let go in turn: the encoder's layers and the decoder's."""
    stacks = [parts_of(model).layers, *(f"{name}.layers" for name in parts_of(model).decoder)]
    found = dict(model.named_modules())
    return [layer for stack in stacks if stack in found for layer in found[stack]]
