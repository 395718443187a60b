"""Where the next vertex is likely to be, and which sides are open: as `_patch_told` tells it, in tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from meshgpt.tokenizers._patch_walk import ENDS_TOLD, FACES_COMPARED, FAR_OFF, LOOK_BACK, NEAREST_TOLD, Layout


@dataclass(frozen=True)
class Said:
    """Of sentences so far: vertices by their numbers, faces by those of their corners; -1 for none."""

    vertices: Int[Tensor, "b v 3"]  # y, z and x
    num_vertices: Int[Tensor, " b"]
    faces: Int[Tensor, "b f 3"]
    gate: Int[Tensor, "b 2"]
    guess: Int[Tensor, "b 3"]
    open_ends: Int[Tensor, "b n"]


@dataclass(frozen=True)
class Sides:
    """Of the same sentences: edges with how many faces each has, and gates, to come and now."""

    edges: Int[Tensor, "b e 2"]  # the vertex with the lower number first
    edge_faces: Int[Tensor, "b e"]
    stack: Int[Tensor, "b s 3"]  # of which the first `depth` count
    depth: Int[Tensor, " b"]
    gate: Int[Tensor, "b 2"]
    gated: Bool[Tensor, " b"]
    open_ends: Int[Tensor, "b n"]


def likely_places(said: Said, layout: Layout) -> Int[Tensor, "b p 3"]:
    """Images in x, in z and by half a turn, and the nearest vertices; -1 for none. See `tell_likely`."""
    vertices, count = said.vertices, said.vertices.shape[1]
    number = torch.arange(count, device=vertices.device)
    seen = (number < said.num_vertices[:, None]) & (number >= said.num_vertices[:, None] - LOOK_BACK)
    on_gate = _tips(said.faces, said.gate)
    told = [_image(said, layout, turn, seen, on_gate) for turn in range(3)]
    taken = torch.cat((said.gate, on_gate, said.open_ends), dim=1)
    free = seen & ~_among(taken, count)
    distance = _distance(vertices, said.guess, free)
    order = distance.topk(min(NEAREST_TOLD, distance.shape[1]), dim=1, largest=False, sorted=True)
    near = vertices.gather(1, order.indices[..., None].expand(-1, -1, 3))
    near = torch.where((order.values < FAR_OFF * count)[..., None], near, -1)
    short = NEAREST_TOLD - near.shape[1]
    return torch.cat((torch.stack(told, dim=1), F.pad(near, (0, 0, 0, short), value=-1)), dim=1)


def promises(sides: Sides) -> Int[Tensor, "b p 3"]:
    """Which sides have still to be closed, and by whom; see `tell_promises`."""
    ends, gate, edges = sides.open_ends[:, :ENDS_TOLD], sides.gate, sides.edges
    ends = F.pad(ends, (0, ENDS_TOLD - ends.shape[1]), value=-1)
    pairs = torch.stack((gate[:, None].expand(-1, ENDS_TOLD, -1), ends[..., None].expand(-1, -1, 2)), dim=-1)
    pairs = torch.cat((pairs.flatten(1, 2), gate[:, None]), dim=1).sort(dim=-1).values  # those of ends, the gate
    on = (edges[:, None] == pairs[:, :, None]).all(dim=-1) & (pairs[..., :1] >= 0)
    faces = torch.where(on, sides.edge_faces[:, None], 0).sum(dim=-1)
    waiting = torch.arange(sides.stack.shape[1], device=gate.device) < sides.depth[:, None]
    to_come = sides.stack[..., :2].sort(dim=-1).values
    pending = ((to_come[:, None] == pairs[:, :, None]).all(dim=-1) & waiting[:, None]).any(dim=-1)
    joined = torch.where(faces[:, :-1] == 1, 1 + pending[:, :-1].long(), 0)
    promised = ((sides.edge_faces == 1).sum(dim=1) - sides.depth - sides.gated.long()).clamp(min=0)
    more = faces[:, -1].clamp(max=3), (gate >= 0).sum(dim=1), sides.depth, promised
    return torch.cat((joined, torch.stack(more, dim=1)), dim=1).unflatten(1, (-1, 3))


def _image(said: Said, layout: Layout, turn: int, seen: Tensor, on_gate: Tensor) -> Int[Tensor, "b 3"]:
    """The image of the tip on the image of the gate, or of the vertex whose image is nearest to the guess."""
    vertices = said.vertices
    ends = torch.stack(
        [_vertex_at(vertices, _reflected(layout, turn, _at(vertices, v)), v >= 0) for v in said.gate.unbind(dim=1)], 1
    )
    others = _tips(said.faces, ends)
    images = torch.stack([_reflected(layout, turn, _at(vertices, v)) for v in others.unbind(dim=1)], dim=1)
    same = torch.stack([_vertex_at(vertices, images[:, k], others[:, k] >= 0) for k in range(others.shape[1])], dim=1)
    there = ((same[:, :, None] == on_gate[:, None]) & (on_gate[:, None] >= 0)).any(dim=-1)
    fits = (others >= 0) & ~there
    tip = others.gather(1, fits.int().argmax(dim=1, keepdim=True))[:, 0]
    distance = _distance(vertices, _reflected(layout, turn, said.guess), seen & ~_among(ends, vertices.shape[1]))
    nearest, vertex = distance.min(dim=1)
    vertex = torch.where(nearest < FAR_OFF * vertices.shape[1], vertex, -1)
    vertex = torch.where(fits.any(dim=1), tip, vertex)
    return torch.where((vertex >= 0)[:, None], _reflected(layout, turn, _at(vertices, vertex)), -1)


def _tips(faces: Int[Tensor, "b f 3"], edge: Int[Tensor, "b 2"]) -> Int[Tensor, "b n"]:
    """The third vertices of the newest faces on an edge, wound either way; -1 for none."""
    on = [(faces == edge[:, k, None, None]) & (edge[:, k, None, None] >= 0) for k in range(2)]
    both = on[0].any(dim=-1) & on[1].any(dim=-1)
    third = torch.where(on[0] | on[1], 0, faces).sum(dim=-1)
    number = torch.where(both, torch.arange(faces.shape[1], device=faces.device), -1)
    newest = number.topk(min(FACES_COMPARED, number.shape[1]), dim=1).values
    return torch.where(newest >= 0, third.gather(1, newest.clamp(min=0)), -1)


def _reflected(layout: Layout, turn: int, places: Int[Tensor, "b 3"]) -> Int[Tensor, "b 3"]:
    """x turned round (0), z (1), or both (2)."""
    y, z, x = places.unbind(dim=-1)
    last = layout.bins - 1
    return torch.stack((y, z if turn == 0 else last - z, x if turn == 1 else last - x), dim=-1)


def _at(vertices: Int[Tensor, "b v 3"], vertex: Int[Tensor, " b"]) -> Int[Tensor, "b 3"]:
    """The place of a vertex of each row; of no meaning for -1."""
    return vertices.gather(1, vertex.clamp(min=0)[:, None, None].expand(-1, 1, 3))[:, 0]


def _vertex_at(vertices: Int[Tensor, "b v 3"], place: Int[Tensor, "b 3"], there: Tensor) -> Int[Tensor, " b"]:
    """The vertex at a place of each row where there is one and that is asked; -1 for none."""
    same = (vertices == place[:, None]).all(dim=-1) & there[:, None]
    return torch.where(same.any(dim=1), same.int().argmax(dim=1), -1)


def _distance(vertices: Tensor, place: Int[Tensor, "b 3"], among: Tensor) -> Int[Tensor, "b v"]:
    """Numbers in the order of distance to a place, and of vertices as far off; large for those that do not count."""
    count = vertices.shape[1]
    distance = torch.where(among, (vertices - place[:, None]).abs().sum(dim=-1), FAR_OFF)
    return distance * count + torch.arange(count, device=vertices.device)


def _among(chosen: Int[Tensor, "b n"], size: int) -> Tensor:
    """(b size), True for what is chosen."""
    marks = torch.zeros(len(chosen), size + 1, dtype=torch.bool, device=chosen.device)
    return marks.scatter(1, torch.where(chosen >= 0, chosen, size), True)[:, :size]
