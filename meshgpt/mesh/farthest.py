"""Farthest point sampling: a few points of each cloud of a batch that cover it. Tensors only; knows no `Mesh`."""

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@torch.no_grad()
def farthest_points(
    points: Float[Tensor, "b p d"], mask: Bool[Tensor, "b p"], count: int, quick: bool = False
) -> Int[Tensor, "b m"]:
    """Indices (b, count) into each cloud: every next point is the one farthest from all before it (Gonzalez, 1985).

    points: positions in the first three columns; further ones (normals) only decide between points at one place.
    mask: True where there is a point. The first point is the one farthest from the centre of the cloud's bounding box,
    and of points equally far the one smallest by (x, y, z, ...) is taken, so that neither the order of the points nor
    padding matters. A cloud with fewer distinct points than `count` repeats its own in the order of their choice; a
    cloud without any gives index 0 (of padding).

    quick: by torch-quickfps (extra 'fps') on the CPU, where it is installed and all clouds are full and have `count`
    distinct points or more: the same points, but for those that are equally far up to rounding, and many times faster
    where a thousand or more are wanted.
    """
    if points.shape[1] == 0:
        return torch.zeros((len(points), count), dtype=torch.long, device=points.device)
    wide = points if points.dtype == torch.float64 else points.float()
    wide = torch.where(mask[..., None], wide, 0.0)
    order = _canonical_order(wide, mask)
    places = wide[..., :3].gather(1, order[..., None].expand(-1, -1, 3)).transpose(1, 2).contiguous()
    fits = wide.device.type == "cpu" and wide.dtype == torch.float32 and 0 < count <= points.shape[1]
    package = _quickfps() if quick and fits and bool(mask.all()) else None
    if package is not None and int(_distinct(places).min()) >= count:
        return order.gather(1, _quickly(package, places, count))
    picks, gains = _cover(places, mask.gather(1, order), count)
    distinct = (gains > 0).sum(dim=1, keepdim=True).clamp(min=1)
    turn = torch.arange(count, device=points.device) % distinct
    return order.gather(1, picks.gather(1, turn))


def _canonical_order(points: Float[Tensor, "b p d"], mask: Bool[Tensor, "b p"]) -> Int[Tensor, "b p"]:
    """Real points before padding, in ascending order of their columns, the first one first."""
    columns = torch.where(mask[..., None], points, torch.inf).unbind(dim=-1)
    order = columns[-1].argsort(dim=1, stable=True)
    for column in (*columns[-2::-1], (~mask).to(points.dtype)):
        order = order.gather(1, column.gather(1, order).argsort(dim=1, stable=True))
    return order


def _cover(places: Float[Tensor, "b 3 p"], mask: Bool[Tensor, "b p"], count: int) -> tuple[Tensor, Tensor]:
    """The points picked, (b, count), and how far each was, squared, from those before; the first counts as infinite."""
    nearest = torch.where(mask, torch.inf, -1.0).to(places.dtype)
    pick = _first(places, mask)
    picks, gains = [], []
    for _ in range(count):
        picks.append(pick)
        gains.append(nearest.gather(1, pick))
        centre = places.gather(2, pick[:, None].expand(-1, 3, -1))
        nearest = torch.minimum(nearest, (places - centre).square_().sum(dim=1))
        pick = nearest.argmax(dim=1, keepdim=True)
    return torch.cat(picks, dim=1), torch.cat(gains, dim=1)


def _first(places: Float[Tensor, "b 3 p"], mask: Bool[Tensor, "b p"]) -> Int[Tensor, "b 1"]:
    """The point farthest from the centre of the box of its cloud."""
    seen = mask[:, None]
    low = torch.where(seen, places, torch.inf).amin(dim=2, keepdim=True)
    high = torch.where(seen, places, -torch.inf).amax(dim=2, keepdim=True)
    distances = torch.where(seen, places - (low + high) / 2, 0.0).square().sum(dim=1)
    return torch.where(mask, distances, -1.0).argmax(dim=1, keepdim=True)


def _distinct(places: Float[Tensor, "b 3 p"]) -> Int[Tensor, " b"]:
    """How many different places there are in each cloud, whose points are in ascending order."""
    return 1 + (places[..., 1:] != places[..., :-1]).any(dim=1).sum(dim=1)


def _quickly(package: Any, places: Float[Tensor, "b 3 p"], count: int) -> Int[Tensor, "b m"]:
    starts = _first(places, places.new_ones(places.shape[::2], dtype=torch.bool))[:, 0].tolist()
    clouds = places.transpose(1, 2).contiguous().float()
    return torch.cat([package.sample_idx(clouds[i : i + 1], count, start_idx=starts[i]) for i in range(len(starts))])


def _quickfps() -> ModuleType | None:
    """The package torch-quickfps, None where it is not installed."""
    try:
        return import_module("torch_quickfps")
    except ImportError:
        return None
