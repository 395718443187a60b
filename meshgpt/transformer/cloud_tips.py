"""What a cloud says of the next token of a mesh that grows tip by tip: where the tip may be, and where faces follow.

Each face stands on a gate, so that what it may be is known but for its tip: one of the places where the cloud has a
corner (`Sketch`), a vertex said before, or an open end. Whether the triangle over the gate lies on surface that no face
covers yet is looked up in the cloud, and a small network scores it; the scores become probabilities of digits. For the
likeliest tips it is looked up as well how the surface goes on around their sides. No paper that we know does this.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.mesh.canonical import dequantize
from meshgpt.mesh.grammar import Surroundings
from meshgpt.nn.geometry import point_triangle_distances
from meshgpt.nn.precision import dtype_of
from meshgpt.transformer.cloud_sketch import TRAITS, Sketch
from meshgpt.transformer.forms import TokenReader

CONSIDERED = 32  # places a token
SURELY = 3  # the trait that tells how much like a corner a place is, and how surely
LOOKED_AROUND = 4  # tips, of the likeliest, whose sides are looked at
ANGLES = tuple(math.radians(degrees) for degrees in range(60, 301, 30))  # around a side, from the face itself
COVERED = 0.03  # a point this near to a face belongs to it, if their normals agree
AGREES = 0.2  # cosine from which they do
SAME = 1.5  # bins within which a place and a vertex are one
NEVER = 1 << 40
MANY = 1 << 24  # more faces than any mesh has
WIDTH = 48  # of what scores a tip, and its sides
FEATURES = 14 + TRAITS + 5 + 13
SIDE_FEATURES = 2 * len(ANGLES) + 4
FLOOR = 1e-3  # of a probability, where nothing is found
SURPRISE = 0.05  # how likely a digit is behind others, where no tip considered is the one


@dataclasses.dataclass(frozen=True)
class CloudTrace:
    """What the faces so far have made of the cloud of each row.

    since: (b p), the number of the face that first covers a point, `NEVER` where none does. places: (b k 3) where
    vertices may be; where there is one, its own place, said: (b k) with which face first.
    """

    sketch: Sketch
    since: Int[Tensor, "b p"]
    places: Float[Tensor, "b k 3"]
    said: Int[Tensor, "b k"]

    @staticmethod
    def begin(sketch: Sketch) -> "CloudTrace":
        since = torch.full_like(sketch.mask, NEVER, dtype=torch.long)
        return CloudTrace(sketch, since, sketch.places, torch.full_like(sketch.there, NEVER, dtype=torch.long))

    @torch.no_grad()
    def cover(self, faces: Int[Tensor, "b nf 3 3"], first: Int[Tensor, " b"], bins: int) -> "CloudTrace":
        """After more faces of each row, whose bins may be padded with -1 and of which `first` is the first's number."""
        sketch, corners, whole = self.sketch, dequantize(faces, bins).float(), faces[..., 0, 0] >= 0
        numbers = first[:, None] + torch.arange(faces.shape[1], device=faces.device)
        row, face, point = _candidates(sketch, corners, whole)
        triangle, normal = corners[row, face], sketch.normals[row, point]
        apart = point_triangle_distances(sketch.points[row, point][:, None], triangle[:, None])[:, 0, 0]
        across = torch.linalg.cross(triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0])
        agree = (F.normalize(across, dim=-1) * normal).sum(dim=-1) > AGREES
        on = (apart <= COVERED) & (agree | (normal == 0).all(dim=-1))
        flat = row * sketch.points.shape[1] + point
        since = self.since.flatten().scatter_reduce(0, flat[on], numbers[row, face][on], "amin").reshape_as(self.since)

        vertices = rearrange(corners, "b nf k c -> b (nf k) c")
        near = torch.cdist(self.places, vertices, p=torch.inf) < 2 * SAME / bins
        near &= repeat(whole, "b nf -> b 1 (nf k)", k=3) & sketch.there[..., None]
        new = near.any(dim=2) & (self.said >= NEVER)
        which = near.int().argmax(dim=2) if near.shape[2] else torch.zeros_like(self.said)
        vertices = F.pad(vertices, (0, 0, 0, 1))
        places = vertices.gather(1, repeat(which, "b k -> b k c", c=3))
        said = F.pad(repeat(numbers, "b nf -> b (nf k)", k=3), (0, 1)).gather(1, which)
        return CloudTrace(
            sketch, since, torch.where(new[..., None], places, self.places), torch.where(new, said, self.said)
        )

    def select(self, rows: Int[Tensor, " r"]) -> "CloudTrace":
        return CloudTrace(self.sketch.select(rows), self.since[rows], self.places[rows], self.said[rows])


def _candidates(sketch: Sketch, corners: Tensor, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, faces and points in the box around the face, where alone it can cover them."""
    inside = whole[..., None] & sketch.mask[:, None]
    for axis in range(3):
        low, high = corners[..., axis].amin(dim=2) - COVERED, corners[..., axis].amax(dim=2) + COVERED
        at = sketch.points[:, None, :, axis]
        inside &= (at >= low[..., None]) & (at <= high[..., None])
    row, face, point = inside.nonzero(as_tuple=True)
    return row, face, point


@dataclasses.dataclass(frozen=True)
class TipsTold:
    """What a cloud says of m tokens, by e ways of saying their tips: each place beside the guess and otherwise, ends.

    weights: (m e) how likely each is, nothing: (m) that it is none of them. digits: (m e 3 s) of y, z and x, each with
    s ways to be off by a bin, -1 for none, of which `spread` (s) are the shares. sides: (m e 2), scores of faces that
    follow at the right and the left. end: (m), added to the score of the end.
    """

    weights: Float[Tensor, "m e"]
    nothing: Float[Tensor, " m"]
    digits: Int[Tensor, "m e 3 s"]
    spread: Float[Tensor, " s"]
    sides: Float[Tensor, "m e 2"]
    end: Float[Tensor, " m"]

    def select(self, rows: Tensor) -> "TipsTold":
        parts = (self.weights[rows], self.nothing[rows], self.digits[rows])
        return TipsTold(*parts, self.spread, self.sides[rows], self.end[rows])

    def added(self, place: int, size: int, said: Int[Tensor, "n l"]) -> Float[Tensor, "m c"]:
        """To the score of each of `size` digits at `place`, behind those said: coordinates, then faces that follow."""
        if place == 0:
            return self._scores(0, size, self.weights, self.nothing)
        weights, nothing = self._after(said)
        return self._scores(place, size, weights, nothing) if place < 3 else _sides(weights, nothing, self.sides)

    def added_after(self, place: int, said: Int[Tensor, "q l"], tables: list[Tensor]) -> Float[Tensor, "m q c"]:
        """The same behind each of q beginnings; `tables` are those of all coordinates."""
        weights = repeat(self.weights, "m e -> m q e", q=len(said))
        for before in range(place):
            weights = weights * rearrange(tables[before][:, :, said[:, before]], "m e q -> m q e")
        nothing = self.nothing[:, None] * SURPRISE**place
        if place == 3:
            return _sides(weights, nothing, self.sides[:, None])
        found = torch.einsum("mqe,mec->mqc", weights, tables[place])
        return _as_scores(found, weights.sum(dim=-1) + nothing)

    def nats(self, said: Int[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """How little the tips that were said are expected by the cloud alone; 0 where there is none."""
        weights, nothing = self._after(said)
        told = self.weights.detach().sum(dim=-1) > 0
        return -(weights.sum(dim=-1) + nothing).clamp(min=1e-20).log() * told

    def _after(self, said: Int[Tensor, "m l"]) -> tuple[Float[Tensor, "m e"], Float[Tensor, " m"]]:
        """The weights, and that of none, once the first l digits are said."""
        weights, nothing = self.weights, self.nothing
        for place in range(said.shape[1]):
            same = self.digits[:, :, place] == said[:, place, None, None]
            weights = weights * (same * self.spread).sum(dim=-1)
            nothing = nothing * SURPRISE
        return weights, nothing

    def _scores(self, place: int, size: int, weights: Tensor, nothing: Tensor) -> Float[Tensor, "m c"]:
        number = rearrange(self.digits[:, :, place], "m e s -> m (e s)")
        shares = rearrange(weights[..., None] * self.spread, "m e s -> m (e s)")
        found = shares.new_zeros(len(shares), size + 1).scatter_add(1, number + 1, shares)[:, 1:]
        return _as_scores(found, weights.sum(dim=-1) + nothing)

    def table(self, place: int, size: int) -> Float[Tensor, "m e c"]:
        """How likely each way of saying a tip says each digit."""
        number = self.digits[:, :, place] + 1
        shares = self.spread.expand(number.shape)
        return shares.new_zeros(*number.shape[:2], size + 1).scatter_add(2, number, shares)[..., 1:]


def _sides(weights: Float[Tensor, "*n e"], nothing: Tensor, sides: Tensor) -> Float[Tensor, "*n 4"]:
    """What is added for each of the four answers to where faces follow."""
    shares = weights / (weights.sum(dim=-1) + nothing)[..., None].clamp(min=1e-20)
    right, left = torch.einsum("...e,...et->...t", shares, sides.expand(*shares.shape, 2)).unbind(dim=-1)
    return torch.stack((torch.zeros_like(right), right, left, right + left), dim=-1)


def _as_scores(found: Tensor, whole: Tensor) -> Tensor:
    shares = found / whole[..., None].clamp(min=1e-20)
    return (shares + FLOOR).log() - math.log(FLOOR)


class CloudTips(nn.Module):
    """Finds `TipsTold` for hidden states of width `dim`; `bins` an axis."""

    def __init__(self, dim: int, bins: int):
        super().__init__()
        self.bins = bins
        self.read, self.ask, self.score = nn.Linear(FEATURES, WIDTH), nn.Linear(dim, WIDTH), nn.Linear(WIDTH, 1)
        self.to_nothing = nn.Linear(dim, 1)
        self.to_end = nn.Linear(dim, 3)
        self.read_side, self.ask_side = nn.Linear(SIDE_FEATURES, WIDTH), nn.Linear(dim, WIDTH)
        self.score_side = nn.Linear(WIDTH, 1)
        self.off_by_one = nn.Parameter(torch.tensor(-1.5))
        for layer in (self.to_end, self.to_nothing, self.score_side):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        hidden: Float[Tensor, "m d"],
        rows: Int[Tensor, " m"],
        around: Surroundings,
        trace: CloudTrace,
        tokenizer: TokenReader,
    ) -> TipsTold:
        """Of m tokens, each of a row of the cloud; `around` is what surrounds them."""
        with torch.no_grad():
            seen = self._seen(rows, around, trace, tokenizer)
        dtype = dtype_of(self)
        asked = self.ask(hidden)
        scores = self.score(F.silu(self.read(seen.features.to(dtype)) + asked[:, None]))[..., 0]
        ways = torch.cat((scores[:, :CONSIDERED], scores), dim=1).float().masked_fill(~seen.sayable, -1e4)
        shares = torch.cat((self.to_nothing(hidden).float(), ways), dim=1).softmax(dim=-1)
        has_points = trace.sketch.has_points[rows]
        weights = shares[:, 1:] * has_points[:, None]
        side = F.softplus(self.off_by_one)
        spread = torch.stack((side, torch.ones_like(side), side)) / (1 + 2 * side)
        sides = self._sides(hidden, weights, rows, around, trace, seen)
        told = (self.to_end(hidden) * _uncovered(trace, rows, around.faces).to(dtype)).sum(dim=-1)
        return TipsTold(weights, shares[:, 0], seen.digits, spread.float(), sides, told * has_points)

    def _seen(self, rows: Tensor, around: Surroundings, trace: CloudTrace, tokenizer: TokenReader) -> "_Seen":
        gate = _Gate.of(around, self.bins)

        def in_block(places: Tensor) -> Bool[Tensor, "m k"]:
            far = tokenizer.spelt(self._bins(places), around.places)[1]
            return (far >= 0).all(dim=-1) & (around.block >= 0).all(dim=-1)

        vertices, which, there = _considered(gate, rows, around.faces, trace, in_block)
        ends = around.open_ends
        there = torch.cat((there, (ends >= 0).all(dim=-1)), dim=1)
        at_end = dequantize(ends.clamp(min=0), self.bins).float()
        same = torch.cdist(vertices, at_end, p=torch.inf).masked_fill(~there[:, None, CONSIDERED:], torch.inf)
        there[:, :CONSIDERED] &= (same > 1 / self.bins).all(dim=-1)
        tips = torch.cat((vertices, at_end), dim=1)
        beside = trace.sketch.beside[rows[:, None], which] + rows[:, None, None] * trace.since.shape[1]
        open_share = (trace.since.flatten()[beside] >= around.faces[:, None, None]).float().mean(dim=-1)
        traits, said = trace.sketch.traits[rows[:, None], which], trace.said[rows[:, None], which]
        more = ends.shape[1]
        own = torch.stack(
            (
                F.pad((said < around.faces[:, None]).float(), (0, more), value=1.0),
                F.pad(open_share, (0, more), value=1.0),
                F.pad(torch.zeros_like(open_share), (0, more), value=1.0),
                gate.has_a[:, None].float().expand_as(there),
                gate.has_b[:, None].float().expand_as(there),
            ),
            dim=-1,
        )
        lies = _lies(trace, rows, around.faces, gate, tips)
        features = torch.cat((lies, F.pad(traits, (0, 0, 0, more)), own, gate.shape_of(tips)), dim=-1)
        digits, sayable = self._spelt(vertices, around, tokenizer, there)
        return _Seen(gate, tips, features, digits, sayable)

    def _spelt(
        self, vertices: Tensor, around: Surroundings, tokenizer: TokenReader, there: Tensor
    ) -> tuple[Int[Tensor, "m e 3 s"], Bool[Tensor, "m e"]]:
        """The digits by which each tip is said, in each way, and whether it can be."""
        bins = self._bins(vertices)
        spelt = [tokenizer.spelt(bins + step, around.places) for step in (-1, 0, 1)]
        near, far = (torch.stack(ways, dim=-1) for ways in zip(*spelt, strict=True))
        may_be_near = (near >= 0).any(dim=-1).all(dim=-1)
        surely_near = (near >= 0).all(dim=-1).all(dim=-1)
        waits = (around.block >= 0).all(dim=-1)
        may_be_far = (far >= 0).any(dim=-1).all(dim=-1) & (waits | ~surely_near)
        ends = torch.arange(there.shape[1] - CONSIDERED, device=there.device)
        at_end = torch.zeros((len(there), len(ends), 3, 3), dtype=torch.long, device=there.device)
        at_end[:, :, 0] = ends[:, None]
        near_there, end_there = there[:, :CONSIDERED], there[:, CONSIDERED:] & ~waits
        sayable = torch.cat((near_there & may_be_near, near_there & may_be_far, end_there), dim=1)
        return torch.cat((near, far, at_end), dim=1), sayable

    def _bins(self, places: Tensor) -> Tensor:
        return ((places + 1) / 2 * self.bins).floor().long().clamp(0, self.bins - 1)

    def _sides(
        self, hidden: Tensor, weights: Tensor, rows: Tensor, around: Surroundings, trace: CloudTrace, seen: "_Seen"
    ) -> Float[Tensor, "m e 2"]:
        """Scores of faces that follow at the sides of the likeliest tips; 0 for others, and where there is no gate."""
        with torch.no_grad():
            near, far, ends = weights.split((CONSIDERED, CONSIDERED, weights.shape[1] - 2 * CONSIDERED), dim=1)
            best = torch.cat((near + far, ends), dim=1).topk(LOOKED_AROUND, dim=1).indices
            tips = seen.tips.gather(1, repeat(best, "m s -> m s c", c=3))
            sides = seen.gate.sides(tips)
            features = torch.stack([_around_side(trace, rows, around.faces, *side) for side in sides], dim=2)
        asked = self.ask_side(hidden)[:, None, None]
        found = self.score_side(F.silu(self.read_side(features.to(hidden.dtype)) + asked))[..., 0]
        found = found * seen.gate.has_b[:, None, None]
        every = found.new_zeros(len(found), seen.tips.shape[1], 2)
        every = every.scatter(1, repeat(best, "m s -> m s t", t=2), found)
        return torch.cat((every[:, :CONSIDERED], every), dim=1)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """tips: (m n 3), places considered and then open ends. features: (m n FEATURES). digits, sayable: (m e ...)."""

    gate: "_Gate"
    tips: Tensor
    features: Tensor
    digits: Tensor
    sayable: Tensor


@dataclasses.dataclass(frozen=True)
class _Gate:
    """What is known of the face to come, in coordinates: the ends of its gate, if there, and the guess; (m 3)."""

    a: Tensor
    b: Tensor
    guess: Tensor
    has_a: Tensor
    has_b: Tensor

    @staticmethod
    def of(around: Surroundings, bins: int) -> "_Gate":
        a, b, guess = dequantize(around.places[:, :3].clamp(min=0), bins).float().unbind(dim=1)
        has_a, has_b = (around.places[:, :2] >= 0).all(dim=-1).unbind(dim=1)
        b = torch.where(has_b[:, None], b, a)
        return _Gate(a, b, guess, has_a, has_b)

    @property
    def middle(self) -> Tensor:
        return (self.a + self.b) / 2

    def ends(self, tips: Float[Tensor, "m n 3"]) -> tuple[Tensor, Tensor]:
        """(m n 3) each: a and b beside each tip; the tip itself for those not known."""
        a = torch.where(self.has_a[:, None, None], self.a[:, None], tips)
        return a, torch.where(self.has_a[:, None, None], self.b[:, None], tips)

    def shape_of(self, tips: Float[Tensor, "m n 3"]) -> Float[Tensor, "m n 13"]:
        """How each tip lies to the gate, to the guess, and to the face behind the gate."""
        step, rise = tips - self.guess[:, None], tips - self.middle[:, None]
        edge = self.b - self.a
        length = edge.norm(dim=-1).clamp(min=1e-4)
        along = (rise * edge[:, None]).sum(dim=-1) / length[:, None]
        away = rise.norm(dim=-1)
        height = (away.square() - along.square()).clamp(min=0).sqrt()
        behind = self.a + self.b - self.guess - self.middle  # to the vertex across the gate
        normal = F.normalize(torch.linalg.cross(behind, edge), dim=-1)
        new = F.normalize(torch.linalg.cross(edge[:, None].expand_as(rise), rise), dim=-1)
        bent = (new * normal[:, None]).sum(dim=-1)
        above = (F.normalize(rise, dim=-1) * normal[:, None]).sum(dim=-1)
        a, b = self.ends(tips)
        at_tip = (F.normalize(a - tips, dim=-1) * F.normalize(b - tips, dim=-1)).sum(dim=-1)
        order = torch.arange(tips.shape[1], device=tips.device).expand(tips.shape[:2]) / tips.shape[1]
        told = (step.norm(dim=-1), away.clamp(min=0.01).log(), along, height, bent, above, at_tip, order, tips[..., 0])
        more = length.log()[:, None].expand_as(away)
        return torch.cat((step, torch.stack((*told, more), dim=-1)), dim=-1)

    def sides(self, tips: Float[Tensor, "m n 3"]) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """(begin, end, the corner across): the right side of each triangle, and the left."""
        a, b = self.ends(tips)
        return (b, tips, a), (a, tips, b)


def _considered(
    gate: _Gate, rows: Tensor, faces: Tensor, trace: CloudTrace, in_block: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "m n 3"], Int[Tensor, "m n"], Bool[Tensor, "m n"]]:
    """The nearest of the places beside which something is open, their numbers, and whether there are so many.

    The more a place looks like a corner the nearer it counts, and so does one near the guess. Where a patch begins, the
    lowest ones. Where a block waits, those in it come first.
    """
    sketch = trace.sketch
    last = trace.since.gather(1, sketch.beside.flatten(1)).reshape(sketch.beside.shape).amax(dim=2)
    is_said = trace.said[rows] < faces[:, None]
    places = torch.where(is_said[..., None], trace.places[rows], sketch.places[rows])
    away = (places - gate.middle[:, None]).norm(dim=-1) / (0.25 + sketch.traits[rows, :, SURELY])
    away = away.minimum(8 * (places - gate.guess[:, None]).norm(dim=-1))
    height = 10 + places[..., 0] + 0.01 * places[..., 1] + 0.0001 * places[..., 2]
    rank = torch.where(gate.has_a[:, None], away, height)
    rank = rank + 100.0 * (last[rows] < faces[:, None]) - 1000.0 * in_block(places)
    for end, known in ((gate.a, gate.has_a), (gate.b, gate.has_b)):
        taken = (places - end[:, None]).abs().amax(dim=-1) < 1e-4
        rank = rank.masked_fill(taken & known[:, None], torch.inf)
    rank = rank.masked_fill(~sketch.there[rows], torch.inf)
    rank = F.pad(rank, (0, max(CONSIDERED - rank.shape[1], 0)), value=torch.inf)
    best = rank.topk(CONSIDERED, dim=1, largest=False)
    number = best.indices.clamp(max=places.shape[1] - 1)
    return places.gather(1, repeat(number, "m n -> m n c", c=3)), number, best.values.isfinite()


def _lies(trace: CloudTrace, rows: Tensor, faces: Tensor, gate: _Gate, tips: Tensor) -> Float[Tensor, "m n 14"]:
    """Whether the triangle of each tip over the gate lies on surface that is open, and how it faces."""
    a, b = gate.ends(tips)
    looked = torch.cat(((a + b + tips) / 3, (a + tips) / 2, (b + tips) / 2), dim=1)
    near = trace.sketch.look(looked, rows, trace.since, faces)
    on, about, is_open = (torch.stack(part.chunk(3, dim=1), dim=-1) for part in (near.on, near.about, near.uncovered))
    across = torch.linalg.cross(b - a, tips - a)
    area = across.norm(dim=-1)
    facing = (across * near.normal.chunk(3, dim=1)[0]).sum(dim=-1) / area.clamp(min=1e-6)
    touches = torch.minimum((tips - a).norm(dim=-1), (tips - b).norm(dim=-1))
    told = (
        on.prod(dim=-1), about.prod(dim=-1), facing, facing * about[..., 0], facing.abs(),
        area.clamp(min=1e-4).log(), (area < 1e-4).float(), touches.clamp(min=0.01).log(),
    )  # fmt: skip
    return torch.cat((on, is_open, torch.stack(told, dim=-1)), dim=-1)


def _around_side(
    trace: CloudTrace, rows: Tensor, faces: Tensor, begin: Tensor, end: Tensor, across: Tensor
) -> Float[Tensor, "m n f"]:
    """What lies around the middle of a side of each triangle: surface, and open surface, at each of the `ANGLES`."""
    middle, side = (begin + end) / 2, end - begin
    length = side.norm(dim=-1, keepdim=True)
    along = side / length.clamp(min=1e-6)
    inward = across - middle
    inward = F.normalize(inward - (inward * along).sum(dim=-1, keepdim=True) * along, dim=-1)
    upward = torch.linalg.cross(along, inward)
    reach = (0.25 * length).clamp(0.02, 0.06)
    ring = [middle + reach * (math.cos(angle) * inward + math.sin(angle) * upward) for angle in ANGLES]
    near = trace.sketch.look(torch.cat((*ring, middle), dim=1), rows, trace.since, faces)
    on, is_open = (torch.stack(part.chunk(len(ring) + 1, dim=1), dim=-1) for part in (near.on, near.uncovered))
    told = torch.cat((length.clamp(min=0.01).log(), on[..., -1:], is_open[..., -1:]), dim=-1)
    opened = on[..., :-1] * is_open[..., :-1]
    return torch.cat((on[..., :-1], opened, told, opened.amax(dim=-1, keepdim=True)), dim=-1)


def _uncovered(trace: CloudTrace, rows: Tensor, faces: Tensor) -> Float[Tensor, "m 3"]:
    """One, and the share of points that no face covers, in two forms."""
    mask, count = trace.sketch.mask, trace.sketch.mask.sum(dim=1)
    each = torch.arange(len(mask), device=mask.device) * (MANY + 2)  # sets rows apart in one sorted list
    since = torch.where(mask, trace.since.clamp(max=MANY), -1) + 1 + each[:, None]
    before = torch.searchsorted(since.flatten().sort().values, faces.clamp(max=MANY) + 1 + each[rows])
    none = (rows + 1) * mask.shape[1] - count[rows]  # in rows up to this one, points that are none, and rows before
    share = 1 - (before - none) / count[rows].clamp(min=1)
    return torch.stack((torch.ones_like(share), share.sqrt(), (share + 0.003).log()), dim=-1)
