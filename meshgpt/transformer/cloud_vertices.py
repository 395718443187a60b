"""The head with a cloud at hand: what the surface says of the very next coordinate, and of the vertices said before.

A model that merely attends to a cloud must learn to aim. Here the aiming is done: places where a vertex may be are
found in the cloud (`Sketch`), those that agree with the coordinates of the corner said so far are kept, and what they
give for the next coordinate is added to the scores of the head, as much as the hidden state wants. No paper that we
know does this.
"""

import dataclasses

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.mesh.canonical import dequantize
from meshgpt.nn.fourier import PointEmbedding
from meshgpt.transformer.cloud_sketch import FITS, TRAITS, Sketch, fits, nearest_points, opened

WIDTH = 32  # of the vector by which a place is asked for
CHANNELS, WINDOW = 8, 5  # of what is read from the histograms, and bins that it sees at once
HISTOGRAMS = 6  # points by two radii, all and uncovered; those near the corner before; places
SAME = 1.5  # bins within which a place and a vertex are one
NEVER = 1 << 40
FLOOR = 1e-3  # of a probability, where nothing is found
RADIUS = 6.0  # bins within which a point agrees with the coordinates said; closer, within half of it


@dataclasses.dataclass(frozen=True)
class CloudView:
    """The cloud of each row as it is at n faces: which points are covered by the faces before."""

    sketch: Sketch
    covered: Bool[Tensor, "b n p"]
    faces: Int[Tensor, "c n"]  # their numbers, one row for all or each its own

    @staticmethod
    def after(sketch: Sketch, faces: Int[Tensor, "b nf t"], bins: int) -> "CloudView":
        """Before each of some faces, whose codes may be padded with -1, and behind the last."""
        corners = rearrange(dequantize(faces, bins), "b nf (k a) -> b nf k a", a=3)
        covered = sketch.covered_by(corners, faces[..., -1] >= 0)
        numbers = torch.arange(faces.shape[1] + 1, device=faces.device)[None]
        return CloudView(sketch, F.pad(covered, (0, 0, 1, 0)).cummax(dim=1).values, numbers)

    def at(self, rows: Int[Tensor, " b"], index: Int[Tensor, " b"]) -> "CloudView":
        """At one face of each row."""
        return CloudView(self.sketch, self.covered[rows, index][:, None], index[:, None])

    def cover(self, faces: Int[Tensor, "b 1 t"], bins: int) -> "CloudView":
        """After one more face of each row."""
        more = CloudView.after(self.sketch, faces, bins).covered[:, 1:]
        return CloudView(self.sketch, self.covered | more, self.faces + 1)

    def select(self, rows: Int[Tensor, " r"]) -> "CloudView":
        return CloudView(self.sketch.select(rows), self.covered[rows], self.faces[rows])


@dataclasses.dataclass(frozen=True)
class Told:
    """What the cloud adds at one place of faces: to scores of codes and end (b f v), and of vertices said (b f m)."""

    codes: Tensor
    vertices: Tensor | None = None

    def select(self, rows: Int[Tensor, " g"], index: Int[Tensor, " g"]) -> "Told":
        """At some faces of some rows: (g v), (g m)."""
        return Told(self.codes[rows, index], None if self.vertices is None else self.vertices[rows, index])


class CloudVertices(nn.Module):
    """What a cloud adds to scores. Coordinates y, z, x of k corners are the codes of a face; `bins` an axis."""

    def __init__(self, dim: int, corners: int, bins: int, pointed: bool):
        """`pointed`: whether vertices said before are pointed at."""
        super().__init__()
        self.bins, self.tokens = bins, 3 * corners
        self.describe = PointEmbedding(WIDTH, num_frequencies=6, dim_extra=TRAITS)
        self.to_query = nn.Linear(dim, WIDTH)
        numbers = [FITS[min(corner, 2)] for corner in range(corners)]
        self.to_weights = nn.ModuleList(nn.Linear(dim, 3 + number) for number in numbers)
        self.to_vertex_weights = nn.ModuleList(nn.Linear(dim, 1 + number) for number in numbers if pointed)
        self.sharpness = nn.Parameter(torch.zeros(3))
        self.read = nn.Conv1d(HISTOGRAMS, CHANNELS, WINDOW, padding=WINDOW // 2)
        self.to_gates = nn.Linear(dim, CHANNELS + 1)
        self.to_end = nn.Linear(dim, 3)
        for layer in (self.to_gates, self.to_end, self.to_vertex_weights):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        hidden: Float[Tensor, "b f d"],
        place: int,
        said: Int[Tensor, "b f t"],
        view: CloudView,
        fitted: "Fitted",
    ) -> Told:
        """For the code at `place` of f faces, of which `said` are the codes up to there; 0 for rows without points.

        fitted: what `fitted` gives for the corner of that code.
        """
        sketch, corner, level = view.sketch, place // 3, place % 3
        asked = sketch.has_points[:, None, None].to(hidden.dtype)
        own = said[:, :, 3 * corner : place].clamp(0, self.bins - 1).float()
        histograms = self._counted(sketch, view.covered, fitted.anchors, own, level)
        found = self._found(hidden, sketch, fitted, own, corner, level)
        logs = (found + FLOOR).log() - torch.tensor(FLOOR).log()
        stacked = torch.cat((histograms.to(logs.dtype), logs[:, :, None]), dim=2)
        read = F.silu(self.read(rearrange(stacked, "b f h v -> (b f) h v")))
        read = rearrange(read, "(b f) h v -> b f h v", b=len(hidden))
        gates = self.to_gates(hidden)
        scores = torch.einsum("bfh,bfhv->bfv", gates[..., 1:], read) + gates[..., :1] * logs
        ends = self._ends(hidden, view) if place == 0 else scores.new_zeros(*scores.shape[:2], 1)
        vertices = None
        if fitted.known is not None and fitted.vertices is not None:
            weights = self.to_vertex_weights[corner](hidden)
            told = torch.einsum("bfe,bfne->bfn", weights, fitted.vertices.to(weights.dtype))
            vertices = fitted.known.spread(told) * asked
        return Told(torch.cat((scores, ends), dim=-1) * asked, vertices)

    def fitted(
        self, corner: int, said: Int[Tensor, "b f t"], view: CloudView, known: "KnownVertices | None" = None
    ) -> "Fitted":
        """What can be known before a corner of f faces is said: how well each place and vertex fits the ones before."""
        positions = dequantize(said[:, :, : 3 * min(corner, 2)].clamp(0, self.bins - 1), self.bins)
        anchors, sketch, covered = rearrange(positions, "b f (c a) -> b f c a", a=3), view.sketch, view.covered
        is_open = opened(sketch, covered, sketch.beside)
        is_said = torch.zeros_like(is_open) if known is None else known.said_at(sketch.places, view.faces, self.bins)
        fit = fits(sketch, covered, anchors, sketch.places)
        places = torch.cat((fit, is_open[..., None], is_said[..., None]), dim=-1)
        if known is None:
            return Fitted(anchors, places)
        vertices = fits(sketch, covered, anchors, known.positions)
        is_open = opened(sketch, covered, known.beside)
        return Fitted(anchors, places, known, torch.cat((vertices, is_open[..., None]), dim=-1))

    def _ends(self, hidden: Tensor, view: CloudView) -> Float[Tensor, "b f 1"]:
        """What the share of points without a face says of the end."""
        mask = view.sketch.mask[:, None]
        share = (~view.covered & mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
        features = torch.stack((torch.ones_like(share), share.sqrt(), (share + 0.003).log()), dim=-1)
        return (self.to_end(hidden) * features.to(hidden.dtype)).sum(dim=-1, keepdim=True)

    def _found(
        self, hidden: Tensor, sketch: Sketch, fitted: "Fitted", own: Tensor, corner: int, level: int
    ) -> Float[Tensor, "b f v"]:
        """Probabilities of the next coordinate by the places that agree with `own`, those said of this corner."""
        keys = self.describe(torch.cat((sketch.places, sketch.traits), dim=-1))
        scores = torch.einsum("bfw,bkw->bfk", self.to_query(hidden), keys) * WIDTH**-0.5
        weights = self.to_weights[corner](hidden)
        told = torch.einsum("bfe,bfke->bfk", weights[..., 1:], fitted.places.to(weights.dtype))
        scores = scores + told + weights[..., :1]
        bins = _in_bins(sketch.places, self.bins)
        if level:
            apart = own[:, :, None] - bins[:, None, :, :level]
            scores = scores - (apart.square().clamp(max=25.0) * F.softplus(self.sharpness[:level])).sum(dim=-1)
        scores = scores.masked_fill(~sketch.there[:, None], -1e4)
        shares = F.pad(scores, (1, 0)).float().softmax(dim=-1)[..., 1:]  # the first is for none of them
        return torch.einsum("bfk,bkv->bfv", shares.to(weights.dtype), self._hats(bins[..., level]).to(weights.dtype))

    @torch.no_grad()
    def _counted(
        self, sketch: Sketch, covered: Tensor, anchors: Tensor, own: Tensor, level: int
    ) -> Float[Tensor, "b f h v"]:
        """How many points there are for each next coordinate, logarithms of one more."""
        number = sketch.sampled.clamp(min=0)
        points = sketch.points.gather(1, number[..., None].expand(-1, -1, 3))
        weight = (sketch.sampled >= 0)[:, None].float()
        bins = _in_bins(points, self.bins)
        is_open = (~covered).float().gather(2, number[:, None].expand(-1, covered.shape[1], -1)) * weight
        weight = weight.expand_as(is_open)
        apart = own[:, :, None] - bins[:, None, :, :level]
        loosely = (-(apart / RADIUS).square().sum(dim=-1)).exp()
        closely = loosely.square().square()
        kinds = [weight * closely, is_open * closely, weight * loosely, is_open * loosely]
        if anchors.shape[2]:
            apart = (points[:, None] - anchors[:, :, -1:]).square().sum(dim=-1)
            kinds.append(kinds[-1] * (-apart / (2 * 0.2**2)).exp())
        else:
            kinds.append(torch.zeros_like(kinds[0]))
        counted = torch.stack(kinds, dim=2)
        joined = rearrange(counted, "b f h s -> b (f h) s") @ self._hats(bins[..., level])
        return rearrange(joined, "b (f h) v -> b f h v", f=counted.shape[1]).log1p()

    def _hats(self, places: Float[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        """Each place shared between the two bins it lies between."""
        return (1 - (torch.arange(self.bins, device=places.device) - places[..., None]).abs()).clamp(min=0)


@dataclasses.dataclass(frozen=True)
class KnownVertices:
    """The vertices said so far, each once.

    positions: (b n 3). entries: (b m), which of them each entry of a pointer is. first: (b n), the face that said it
    first. beside: (b n BESIDE), the points nearest to it.
    """

    positions: Float[Tensor, "b n 3"]
    entries: Int[Tensor, "b m"]
    first: Int[Tensor, "b n"]
    beside: Int[Tensor, "b n p"]

    @staticmethod
    def of(codes: Int[Tensor, "b nf k 3"], faces: Int[Tensor, "b nf"], sketch: Sketch, bins: int) -> "KnownVertices":
        """Of the corners of faces, whose codes may be padded with -1; a mesh repeats each vertex some six times."""
        number = ((codes[..., 0] * bins + codes[..., 1]) * bins + codes[..., 2]).clamp(min=-1).flatten(1)
        found = [row.unique(return_inverse=True) for row in number]
        kept = torch.nn.utils.rnn.pad_sequence([row for row, _ in found], batch_first=True, padding_value=-1)
        entries = torch.stack([row for _, row in found]).reshape(len(number), -1)
        each = repeat(faces.expand(len(codes), -1), "b nf -> b (nf k)", k=codes.shape[2])
        first = torch.full_like(kept, NEVER).scatter_reduce(1, entries, each, "amin").masked_fill(kept < 0, NEVER)
        codes = torch.stack((kept // bins**2, kept // bins % bins, kept % bins), dim=-1).clamp(min=0)
        positions = dequantize(codes, bins)
        return KnownVertices(positions, entries, first, nearest_points(sketch.points, sketch.mask, positions))

    def select(self, rows: Int[Tensor, " r"]) -> "KnownVertices":
        return KnownVertices(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    def spread(self, told: Float[Tensor, "b f n"]) -> Float[Tensor, "b f m"]:
        """To each entry what its vertex is told."""
        return told.gather(2, self.entries[:, None].expand(-1, told.shape[1], -1))

    @torch.no_grad()
    def said_at(self, places: Float[Tensor, "b k 3"], faces: Int[Tensor, "c f"], bins: int) -> Float[Tensor, "b f k"]:
        """1 for places at which, but for a bin, there is a vertex that was said before each face."""
        near = torch.cdist(places, self.positions, p=torch.inf) < 2 * SAME / bins
        first = self.first[:, None].masked_fill(~near, NEVER)
        first = first.amin(dim=2) if first.shape[2] else torch.full_like(places[..., 0], NEVER)
        return (first[:, None] < faces[..., None]).float()


@dataclasses.dataclass(frozen=True)
class Fitted:
    """How well the places of a cloud, and vertices said before, fit the corners said: the first two, `anchors`."""

    anchors: Float[Tensor, "b f c 3"]
    places: Float[Tensor, "b f k e"]
    known: KnownVertices | None = None
    vertices: Float[Tensor, "b f n g"] | None = None

    def select(self, rows: Int[Tensor, " r"]) -> "Fitted":
        vertices = None if self.vertices is None else self.vertices[rows]
        return Fitted(self.anchors[rows], self.places[rows], self.known and self.known.select(rows), vertices)


@dataclasses.dataclass
class CloudNow:
    """The cloud while a face of each row is written; what fits is found once a corner."""

    module: CloudVertices
    view: CloudView  # (b 1 p)
    known: KnownVertices | None
    fitted: Fitted | None = None

    def told(self, hidden: Float[Tensor, "b d"], place: int, said: Int[Tensor, "b t"]) -> Told:
        """For the code at `place`, (b v) and (b m), where places are asked for in their order."""
        said, rows = rearrange(said, "b t -> b 1 t"), torch.arange(len(said), device=said.device)
        if place % 3 == 0 or self.fitted is None:
            self.fitted = self.module.fitted(place // 3, said, self.view, self.known)
        told = self.module(rearrange(hidden, "b d -> b 1 d"), place, said, self.view, self.fitted)
        return told.select(rows, torch.zeros_like(rows))

    def select(self, rows: Int[Tensor, " r"]) -> "CloudNow":
        known, fitted = self.known and self.known.select(rows), self.fitted and self.fitted.select(rows)
        return CloudNow(self.module, self.view.select(rows), known, fitted)


def _in_bins(places: Tensor, bins: int) -> Tensor:
    """Positions on a scale on which bin i has its centre at i."""
    return (places + 1) / 2 * bins - 0.5
