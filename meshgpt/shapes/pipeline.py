"""Autoencoder and prior of fields in one folder: a wish or a scan goes in, dense closed meshes come out.

text, category, points ── prior ──> latents ─┐
cloud or mesh ── autoencoder ──────> latents ┴─ autoencoder ──> field ── extract ──> FieldMesh
"""

import dataclasses
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from meshgpt.checkpoint import find_model, load_config, save_model, save_parts, saved_class, upload
from meshgpt.config import Config
from meshgpt.data.fields import FieldConfig, surface_points
from meshgpt.errors import CheckpointError, ConditionError, ConfigError, GenerationError, GenerationInterrupted
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.isosurface import FLOATER, ExtractionConfig, Isosurface
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.shape_files import as_shape
from meshgpt.mesh.solid import SolidVerdict, solid
from meshgpt.mesh.surface import SurfaceReport, compare_surfaces
from meshgpt.shapes.diffusion.sampler import Sampler
from meshgpt.shapes.latent_diffusion import LatentDiffusion
from meshgpt.shapes.vecset import VectorSetAutoencoder
from meshgpt.transformer.held import as_in_evaluation

LEAST_COARSE, FINEST = 32, 1024  # cells of the grid that is looked at everywhere, and of any
FEWEST = 20  # points of a cloud
FLAT = 1e-4  # a cloud that is thinner than this share of its length has no inside
SHARP = FieldConfig().sharp / FieldConfig().surface  # of points, the share that lies along sharp edges in training
COMPARED = 4096  # points by which a reconstruction is compared with what was given


@dataclass(frozen=True)
class ShapePipelineConfig(Config):
    """How a pipeline samples unless a call says otherwise.

    num_points: of the cloud that the autoencoder encodes; best as many as it was trained with. num_latents: of a
    reconstruction, 0 for as many as in training. asked_points: of a shape that the prior is asked to follow. method,
    num_steps: see `Sampler`. cond_scale: guidance, 1 for none. resolution: cells along each axis of the grid on which
    the field is looked at. keep_share: parts with less of the area are removed. smooth: how often surfaces are evened
    out, see `smoothed`. rounds: how often what a prior made is encoded and brought back once more, which takes out what
    the autoencoder knows no shape to have. has_prior: whether there is a prior in the folder; without one shapes can be
    reconstructed only.
    """

    num_points: int = 512
    num_latents: int = 0
    asked_points: int = 1024
    method: str = "heun"
    num_steps: int = 18
    cond_scale: float = 1.0
    resolution: int = 128
    keep_share: float = FLOATER
    smooth: int = 10
    rounds: int = 0
    has_prior: bool = True

    def validate(self) -> None:
        for field in ("num_points", "asked_points"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        self.require(self.num_latents >= 0, "num_latents", "not be negative")
        self.require(8 <= self.resolution <= FINEST, "resolution", f"lie between 8 and {FINEST}")
        self.require(self.cond_scale >= 0, "cond_scale", "not be negative")
        self.require(0 <= self.keep_share < 1, "keep_share", "lie in [0, 1)")
        self.require(self.smooth >= 0, "smooth", "not be negative")
        self.require(self.rounds >= 0, "rounds", "not be negative")


SAMPLING, EXTRACTION = ("method", "num_steps"), ("resolution", "keep_share", "smooth")
HERE = ("num_points", "num_latents", "asked_points", "cond_scale", "rounds", *EXTRACTION)


@dataclass(frozen=True, eq=False)
class FieldMesh:
    """The dense mesh of a field, and how it came about.

    mesh: closed and wound outwards, on the ground or in the place of the shape that it follows; without faces where the
    field is empty or full. surface: what came out of the field, in [-1, 1]. latents: (m, c), on the CPU. seed: of the
    noise; of a reconstruction, of the points that were taken. solid: how a mesh that was given became a solid. fit: how
    far the surface lies from what was given, both normalised.
    """

    mesh: Mesh
    surface: Isosurface
    latents: Float[Tensor, "m c"]
    seed: int
    solid: SolidVerdict | None = None
    fit: SurfaceReport | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no surface, because nothing is inside or everything."""
        return self.surface.verdict != "surface"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        surface, shape = self.surface, {"faces": self.mesh.num_faces, "vertices": self.mesh.num_vertices}
        told: dict[str, Any] = {"seed": self.seed, "verdict": surface.verdict, **shape}
        told |= {"touches_border": surface.touches_border, "removed_parts": surface.removed}
        told |= {} if self.solid is None else {"solid": self.solid.to_dict()}
        return told | ({} if self.fit is None else {"fit": dataclasses.asdict(self.fit)})


@dataclass(frozen=True, eq=False)
class _Options:
    """What a call does, all defaults filled in."""

    sampler: Sampler
    extraction: ExtractionConfig
    num_points: int
    num_latents: int | None
    asked_points: int
    cond_scale: float
    rounds: int


class ShapePipeline:
    """Dense meshes from fields: `ShapePipeline.from_pretrained(folder)(category = "chair", seed = 0, num_shapes = 4)`.

    `reconstruct(scan)` takes a cloud or a mesh instead. `retopologize` of what comes out makes light meshes of them.
    Raises `ConfigError` for a prior of other latents than those of the autoencoder.
    """

    config_class, part = ShapePipelineConfig, "pipeline"

    @no_type_check
    def __init__(
        self,
        autoencoder: VectorSetAutoencoder,
        prior: LatentDiffusion | None = None,
        config: ShapePipelineConfig | None = None,
    ):
        if prior is not None and prior.config.dim_latent != autoencoder.config.dim_latent:
            what = f"the prior makes latents of {prior.config.dim_latent} numbers"
            raise ConfigError(
                f"{what}, the autoencoder has {autoencoder.config.dim_latent}: they do not belong together"
            )
        self.autoencoder, self.prior = autoencoder, prior
        self.config = (config or ShapePipelineConfig()).replace(has_prior=prior is not None)

    @property
    def categories(self) -> tuple[str, ...]:
        """What it can be asked for by name."""
        return () if self.prior is None else self.prior.config.categories

    @no_type_check
    def __call__(self, text=None, **options) -> list[Mesh]:
        """Meshes; the arguments are those of `generate`. One without faces stands for a field without a surface."""
        return [item.mesh for item in self.generate(text, **options)]

    @no_type_check
    def generate(
        self,
        text=None,
        *,
        category=None,
        points=None,
        seed=None,
        num_shapes=None,
        batch_size=16,
        on_shape=None,
        progress=False,
        **options,
    ) -> list[FieldMesh]:
        """`num_shapes` shapes (one, if no list says otherwise), `batch_size` at a time.

        text, category: what the shapes should be, where the prior was trained for it. points: a shape to follow, a
        `PointCloud`, a `Mesh`, an array (n, 3) or (n, 6) with normals, or a file; results come back in its place and
        size. Each of these may be a list with an entry a shape. negative_text: what guidance (`cond_scale`) leads away
        from. seed: shape i is made with seed + i, whatever the batch; without one, seeds are drawn and told in the
        result. on_shape(index, shape) hears of every shape when it is done. Further keywords: the fields of `Sampler`,
        `ExtractionConfig` and `ShapePipelineConfig`.

        Raises `GenerationError` for what this pipeline cannot do, and for Ctrl-C `GenerationInterrupted`, which has the
        shapes that were done.
        """
        prior, negative_text = self._prior(), options.pop("negative_text", None)
        chosen = self._options(options)
        if batch_size < 1 or (num_shapes is not None and num_shapes < 1):
            raise GenerationError(f"num_shapes and batch_size must be at least 1, got {num_shapes} and {batch_size}")
        shapes = None if points is None else _entries(points)
        asked = {"texts": text, "categories": category}
        asked |= {} if shapes is None else {"points": [_seen(shape, chosen.asked_points) for shape in shapes]}
        asked = {name: value for name, value in asked.items() if value is not None}
        conditions = prior.conditions_of(num_shapes, **asked)
        self._check_guidance(chosen.cond_scale, conditions.kinds, negative_text)
        frames = None if shapes is None else [_frame(shape) for shape in shapes]
        frames = frames * len(conditions) if frames is not None and len(frames) == 1 else frames
        seeds, found = _seeds(seed, len(conditions)), []
        guidance = {"cond_scale": chosen.cond_scale, "negative_texts": negative_text, "sampler": chosen.sampler}
        try:
            with tqdm(total=len(seeds), disable=not progress, unit=" shapes") as bar:
                for start in range(0, len(seeds), batch_size):
                    rows = range(start, min(start + batch_size, len(seeds)))
                    part = conditions.select(torch.tensor(rows, device=prior.device))
                    latents = prior.generate(conditions=part, seed=[seeds[row] for row in rows], **guidance)
                    for row, own in zip(rows, latents, strict=True):
                        frame = None if frames is None else frames[row]
                        found.append(self._generated(own, seeds[row], chosen, frame))
                        bar.update()
                        if on_shape is not None:
                            on_shape(row, found[-1])
        except KeyboardInterrupt as interrupt:
            raise GenerationInterrupted(found) from interrupt
        return found

    @no_type_check
    def reconstruct(self, shape, *, seed=0, make_solid=True, **options) -> FieldMesh:
        """The field of a cloud or a mesh, and its surface, in the place and size of what is given.

        shape: a `PointCloud`, a `Mesh`, an array (n, 3) or (n, 6) with normals, or a file. make_solid: points are taken
        from what `solid` makes of a mesh, as in training, and not from all of its faces. seed: of the points that are
        taken. Further keywords are those of `generate`. An empty field is no error: see `FieldMesh.is_empty`.

        Raises `ConditionError` for points that all lie in one plane or are next to none, and what `as_shape` raises.
        """
        chosen, shape = self._options(options), as_shape(shape)
        frame, rng = _frame(shape), np.random.default_rng(seed)
        near = shape.normalized() if isinstance(shape, Mesh) else shape.normalized()[0]
        verdict, points = None, None
        if isinstance(near, Mesh) and make_solid:
            body = solid(near)
            config = FieldConfig(surface=chosen.num_points, sharp=round(SHARP * chosen.num_points))
            verdict, points = body.verdict, surface_points(near, body, config, rng)
        else:
            cloud = PointCloud.from_mesh(near, chosen.num_points, rng) if isinstance(near, Mesh) else near
            _check_depth(cloud)
            points = self._columns(cloud.subsampled(chosen.num_points, rng))
        made = self._decoded(self._encoded(points, chosen), seed, chosen.extraction, frame)
        fit = None if made.is_empty else compare_surfaces(made.surface.mesh, near, COMPARED)
        return dataclasses.replace(made, solid=verdict, fit=fit)

    # what they are made of

    def _prior(self) -> LatentDiffusion:
        if self.prior is None:
            what = "this autoencoder has no prior, so it can reconstruct shapes and not invent them"
            raise GenerationError(f"{what}: train one with `meshgpt train shapes-denoiser`")
        return self.prior

    @no_type_check
    def _options(self, options: dict[str, Any]) -> _Options:
        """Raises `ConfigError` for a keyword that nothing here knows, and for values that cannot be."""
        names = {"sampler": _names(Sampler), "extraction": _names(ExtractionConfig) - {"coarse"}}
        own = {name: value for name, value in options.items() if name in HERE}
        config = self.config.replace(**own)
        sampling = {name: getattr(config, name) for name in SAMPLING}
        sampling |= {name: value for name, value in options.items() if name in names["sampler"]}
        extraction = {name: getattr(config, name) for name in EXTRACTION}
        extraction |= {name: value for name, value in options.items() if name in names["extraction"]}
        extraction["coarse"] = options.get("coarse", coarse_of(config.resolution))
        known = {*HERE, *names["sampler"], *names["extraction"], "coarse"}
        unknown = next((name for name in options if name not in known), None)
        if unknown is not None:
            raise ConfigError(f"a shape pipeline has no option '{unknown}'; there are: {', '.join(sorted(known))}")
        return _Options(
            Sampler.from_dict(sampling),
            ExtractionConfig.from_dict(extraction),
            config.num_points,
            config.num_latents or None,
            config.asked_points,
            config.cond_scale,
            config.rounds,
        )

    @no_type_check
    def _check_guidance(self, cond_scale: float, kinds: tuple[str, ...], negative_text) -> None:
        if cond_scale != 1 and not kinds:
            raise GenerationError("cond_scale without anything asked for: give text, category or points")
        if negative_text is not None and "text" not in kinds:
            raise GenerationError("negative_text without text: there is nothing that it could change")

    @no_type_check
    def _generated(self, latents: Tensor, seed: int, chosen: _Options, frame: Frame | None) -> FieldMesh:
        """What latents of a prior tell, encoded and brought back `rounds` times where there is something to encode."""
        made, rng = self._decoded(latents, seed, chosen.extraction, frame), np.random.default_rng(seed)
        for _ in range(chosen.rounds if not made.is_empty else 0):
            columns = self._columns(PointCloud.from_mesh(made.surface.mesh, chosen.num_points, rng))
            again = self._decoded(self._encoded(columns, chosen), seed, chosen.extraction, frame)
            if again.is_empty:
                break
            made = again
        return made

    @no_type_check
    def _encoded(self, points: Float[Tensor, "p 7"], chosen: _Options) -> Float[Tensor, "m c"]:
        columns = torch.as_tensor(points, dtype=torch.float32, device=self.device)
        with torch.no_grad(), as_in_evaluation(self.autoencoder):
            return self.autoencoder.encode(columns[None], num_latents=chosen.num_latents)[0]

    @no_type_check
    def _decoded(self, latents: Tensor, seed: int, extraction: ExtractionConfig, frame: Frame | None) -> FieldMesh:
        with as_in_evaluation(self.autoencoder):
            [surface] = self.autoencoder.extract(latents[None].to(self.device), extraction)
        if surface.verdict != "surface":
            mesh = Mesh([], [])
        else:
            mesh = surface.mesh.grounded() if frame is None else frame.restore_mesh(surface.mesh)
        return FieldMesh(mesh, surface, latents.float().cpu(), int(seed))

    def _columns(self, cloud: PointCloud) -> Float[Tensor, "p 7"]:
        """Places, normals, where the autoencoder reads them estimated if need be, and no point marked as sharp."""
        if self.autoencoder.config.normals and cloud.normals is None:
            cloud = cloud.estimated_normals()
        return torch.nn.functional.pad(cloud.tensor(), (0, 1))

    # where they are

    @property
    def device(self) -> torch.device:
        return next(self.autoencoder.parameters()).device

    def to(self, device: str | torch.device) -> "ShapePipeline":
        """Moves the models; returns the pipeline."""
        self.autoencoder.to(device)
        if self.prior is not None:
            self.prior.to(device)
        return self

    @no_type_check
    def save_pretrained(self, folder, dtype=None) -> Path:
        """Writes autoencoder, prior and settings to one folder; `dtype` bfloat16 or float16 halves the bytes.

        A pipeline that is there already is what `from_pretrained` finds until all of the new one is written.
        """
        with save_parts(folder) as fresh:
            self.autoencoder.save_pretrained(fresh / self.autoencoder.part, dtype=dtype)
            if self.prior is not None:
                self.prior.save_pretrained(fresh / self.prior.part, dtype=dtype)
            save_model(self, self.config, fresh / self.part)
        if self.prior is None:
            shutil.rmtree(Path(folder) / LatentDiffusion.part, ignore_errors=True)  # of a pipeline that was here before
        return Path(folder)

    @classmethod
    @no_type_check
    def from_pretrained(cls, name_or_folder, *, device="cpu", revision=None) -> "ShapePipeline":
        """The pipeline in a folder, one bundled with the package, or one on the Hub ("owner/name").

        The folder of an autoencoder alone gives a pipeline that reconstructs. Raises `CheckpointError` for one that is
        missing, damaged, or of another kind of model.
        """
        folder = find_model(name_or_folder, cls.part, revision)
        kind = saved_class(folder)
        if kind == VectorSetAutoencoder.__name__:
            return cls(VectorSetAutoencoder.from_pretrained(folder)).to(device)
        if kind != cls.__name__:
            advice = (
                "give the folder 'pipeline' of a run of `meshgpt train shapes-denoiser`, or an autoencoder of fields"
            )
            raise CheckpointError(f"{name_or_folder} holds a {kind}, which models no shapes as fields: {advice}")
        config = load_config(folder, cls)
        autoencoder = VectorSetAutoencoder.from_pretrained(name_or_folder, revision=revision)
        prior = LatentDiffusion.from_pretrained(name_or_folder, revision=revision) if config.has_prior else None
        return cls(autoencoder, prior, config).to(device)

    def push_to_hub(self, repository: str, private: bool = False, dtype: str | None = None) -> str:
        """Uploads the pipeline to the Hub repository "owner/name", which is made if need be; gives its address."""
        return upload(self, repository, private, dtype)


def coarse_of(resolution: int) -> int:
    """The coarsest grid of at least `LEAST_COARSE` cells from which halving cells leads to `resolution`."""
    while resolution % 2 == 0 and resolution // 2 >= LEAST_COARSE:
        resolution //= 2
    return resolution


@no_type_check
def _names(config) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


@no_type_check
def _entries(points) -> list[Mesh | PointCloud]:
    """The shapes of a list, or the one that is given; each once read."""
    if not isinstance(points, (list, tuple)):
        return [as_shape(points)]
    if not points:
        raise ConditionError("points is an empty list: give an entry for each shape, or leave it out")
    return [as_shape(each) for each in points]


def _frame(shape: Mesh | PointCloud) -> Frame:
    return Frame.of(shape.bounds)


def _seen(shape: Mesh | PointCloud, count: int) -> Float[Tensor, "p 6"]:
    """What a prior sees of a shape to follow: at most `count` points, the same ones each time."""
    rng = np.random.default_rng(0)
    if isinstance(shape, Mesh):
        return PointCloud.from_mesh(shape.normalized(), count, rng).tensor()
    return shape.normalized()[0].subsampled(count, rng).tensor()


def _check_depth(cloud: PointCloud) -> None:
    """Raises `ConditionError` for points that enclose nothing, and for next to none."""
    spread = np.linalg.svd(cloud.points - cloud.points.mean(axis=0), compute_uv=False)
    rank = int((spread > FLAT * max(spread[0], 1e-12)).sum()) if spread[0] > 1e-12 else 0
    if rank < 3:
        where = ("at one place", "on one line", "in one plane")[rank]
        raise ConditionError(f"all {len(cloud)} points lie {where}: there is no inside that a field could have")
    if len(cloud) < FEWEST:
        what = f"a cloud of {len(cloud)} points says too little of a shape"
        raise ConditionError(f"{what}: give at least {FEWEST}, better a few thousand")


@no_type_check
def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None:
        return [secrets.randbelow(2**31) for _ in range(count)]
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + index for index in range(count)]
    if len(seed) != count:
        raise GenerationError(f"{len(seed)} seeds for {count} shapes: give one for each, or a single number")
    return [int(each) for each in seed]
