"""Tokenizer and transformer in one folder: a seed or a begun mesh goes in, finished meshes come out."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, no_type_check
from warnings import warn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from meshgpt._storage import BITS
from meshgpt.checkpoint import find_model, load_config, save_model, save_parts, saved_class, upload
from meshgpt.config import Config
from meshgpt.critic import MeshCritic
from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CheckpointError, ConfigError, GenerationError, GenerationInterrupted
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.finishing import TIDY, WRITTEN, finished_forms
from meshgpt.mesh.form import doubt
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.mesh import Mesh, drop_unused_vertices
from meshgpt.mesh.surface import SurfaceReport
from meshgpt.mesh.topology import orient
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.transformer.compressed import compressed
from meshgpt.transformer.generation import GenerationResult
from meshgpt.transformer.transformer import MeshTransformer
from meshgpt.wishes import Target, Wishes

TOKENIZERS = {  # and the file of each, loaded where it is used: what the learned one needs takes seconds to import
    "MeshAutoencoder": "autoencoder",
    "CoordinateTokenizer": "coordinates",
    "PatchTokenizer": "patch",
    "HalfEdgeTokenizer": "half_edge",
    "StripTokenizer": "strip",
}
BESIDE_JUDGE = 0.15  # of the weight of the critic, where a judge says what is like what was asked for
CANDIDATE_STRIDE = 1_000_003  # between the seeds of one mesh's candidates
BUDGET_TOLERANCE = 0.2  # a mesh has about as many faces as asked for when it misses by no more
OF_THE_PIPELINE = ("usual_faces", "retouch", "critic_weight")  # nothing that the transformer is told
SHOWN = ("num_points", "beside_edges")  # of a shape to follow
SMALLEST_AREA = 1e-9  # a face with less has its corners on one line; on 1,024 bins the least area else is 1.9e-6
STREAMED = Callable[[int, int, Tensor], None]
JUDGE = Callable[[Sequence[Mesh], Sequence[Any], Sequence[Any]], list[float]]  # log p of texts and categories asked for
ROOM = 0.8  # of the faces that a mesh may have, so many are asked for at most where nobody says
SIZES = 1  # the stream of random numbers that these are drawn from
NAMED_OTHERWISE = {"texts": "text", "categories": "category", "num_faces": "faces"}  # by `MeshTransformer`


@dataclass(frozen=True)
class MeshPipelineConfig(Config):
    """How a pipeline samples unless a call says otherwise; see `Sampling`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    min_faces: int = 1
    max_faces: int | None = None
    follow_grammar: bool | None = None  # None: where the tokenizer has a grammar
    candidates: int = 1  # so many are written of each mesh, and the best is kept; see `MeshPipeline.generate`
    cond_scale: float = 1.0  # guidance where something is asked for; see `Guidance`
    num_points: int = 1024  # of a cloud or mesh to follow, so many points are shown to the model
    beside_edges: float = 0.0  # of a mesh to follow, the share of them that lie close to its sharp edges
    usual_faces: tuple[int, ...] = ()  # where no number is asked for, one is drawn: evenly spaced quantiles of it
    retouch: bool = False  # each candidate is seen in all `finished_forms`, too; see `MeshPipeline.generate`
    critic_weight: float = 0.0  # of the logit of the critic in the choice among candidates; 0: the pipeline has none

    def validate(self) -> None:
        self.require(self.candidates >= 1, "candidates", "be at least 1")
        self.require(self.num_points >= 1, "num_points", "be at least 1")
        self.require(0 <= self.beside_edges <= 1, "beside_edges", "lie in [0, 1]")
        self.require(self.cond_scale >= 0, "cond_scale", "not be negative")
        self.require(all(each >= 1 for each in self.usual_faces), "usual_faces", "be at least 1")
        self.require(self.critic_weight >= 0, "critic_weight", "not be negative")


@dataclass(frozen=True)
class GeneratedMesh:
    """A finished mesh, and how it came about."""

    mesh: Mesh
    seed: int
    codes: Tensor  # (n,), the prompt's first
    stopped_by: str  # "end": by the model; else by a limit, "max_faces" or "max_seq_len", or by Ctrl-C, "interrupted"
    fit: SurfaceReport | None = None  # how far it is from the shape that it follows, both normalised
    match: float | None = None  # log-probability that it is what was asked for, where a judge was given
    form: str = WRITTEN  # which of `finished_forms` it is; the codes are those of the mesh as it was written
    doubt: float | None = None  # how little it looks made by hand, see `MeshPipeline.doubts_of`; None where none asked

    @property
    def retouched(self) -> str:
        """What was done to it, in words: "tidied", "left half mirrored", ...; empty where nothing was."""
        return {WRITTEN: "", TIDY: "tidied"}.get(self.form, f"{self.form} half mirrored")


@dataclass(frozen=True)
class _Choice:
    """By what candidates are chosen, of all meshes of a call."""

    seeds: list[int]
    wishes: Wishes
    judge: JUDGE | None
    retouch: bool
    max_faces: int | None


class MeshPipeline:
    """Writes meshes: `MeshPipeline.from_pretrained("lowpoly")(seed = 0, num_meshes = 4)` -> list of `Mesh`.

    A mesh comes out welded, without duplicate faces or such as have no area, wound consistently where that is possible,
    standing on the ground (y = 0), its longest side about 1.9.
    """

    config_class, part = MeshPipelineConfig, "pipeline"

    def __init__(
        self,
        tokenizer: MeshTokenizer,
        transformer: MeshTransformer,
        config: MeshPipelineConfig | None = None,
        critic: MeshCritic | None = None,
    ):
        self.tokenizer, self.transformer, self.critic = tokenizer, transformer, critic
        self.config = config or MeshPipelineConfig()
        if critic is None and self.config.critic_weight:
            raise ConfigError(f"critic_weight is {self.config.critic_weight:g}, but there is no critic: give one, or 0")

    @no_type_check
    def __call__(self, text=None, *, seed=None, num_meshes=None, prompt=None, **options) -> list[Mesh]:
        """Finished meshes; the arguments are those of `generate`. Warns where a mesh was cut off by a limit."""
        written = self.generate(text, seed=seed, num_meshes=num_meshes, prompt=prompt, **options)
        cut = [item for item in written if item.stopped_by != "end"]
        if cut:
            limits = ", ".join(f"seed {item.seed} by {item.stopped_by}" for item in cut[:4])
            what = f"{len(cut)} of {len(written)} meshes were cut off before the model ended them ({limits})"
            warn(f"{what}: allow more faces, or see generate(...) for which", stacklevel=2)
        return [item.mesh for item in written]

    @no_type_check
    def generate(
        self,
        text=None,
        *,
        seed=None,
        num_meshes=None,
        prompt=None,
        batch_size=64,
        on_face=None,
        on_mesh=None,
        progress=False,
        **options,
    ) -> list[GeneratedMesh]:
        """`num_meshes` meshes (one, if no list says otherwise), `batch_size` rows at a time, candidates counted.

        What a seed gives does not depend on either.

        text, and as keywords category and faces (how many to aim at; `max_faces` is the hard limit): what the mesh
        should be, where the model was trained for it. points: a shape to follow, a `PointCloud`, an array (n, 3), or
        (n, 6) with normals, or a file; mesh: the same as a `Mesh` or a file. A result comes back in the place and size
        of the shape that it follows. Each of these may be a list with an entry a mesh. negative_text: what guidance
        (`cond_scale`) leads away from. prompt: a `Mesh` in [-1, 1] to go on from, or codes (1, n); they come first.

        seed: mesh i is written with seed + i; without one, seeds are drawn and told in the result. candidates: so many
        are written of each mesh, and the best is kept: one that the model ended, that is within a fifth of the faces
        asked for, and that lies nearest to the shape it follows (Chamfer distance); where it follows none, the one that
        most looks made by hand (see `doubts_of`). retouch: each candidate counts in all its `finished_forms`, as it was
        written, tidied, and as either half and its mirror image, whichever looks best; not where it follows a shape or
        goes on from a prompt. judge: says which of these look most like the text or category asked for,
        a function of (meshes, texts, categories) such as `evaluation.judge.ShapeJudge()`. on_face(mesh, face, codes)
        hears of every face as it is written, on_mesh(mesh, generated) of every mesh. progress: shows a bar. Further
        keywords: the fields of `Sampling` and `Guidance`. Raises `GenerationError` for what this model cannot do, and
        for Ctrl-C `GenerationInterrupted`, which has what was written before, faces of unfinished meshes too.
        """
        if min(1 if num_meshes is None else num_meshes, batch_size) < 1:
            raise GenerationError(f"num_meshes and batch_size must be at least 1, got {num_meshes} and {batch_size}")
        foreign = sorted(options.keys() & NAMED_OTHERWISE.keys())
        if foreign:
            raise GenerationError(f"generate has no option {foreign[0]}: here it is {NAMED_OTHERWISE[foreign[0]]}")
        asked = {name: options.pop(name, None) for name in ("category", "faces", "points", "mesh")}
        judge = options.pop("judge", None)
        wishes = Wishes.of(num_meshes, self.transformer.config.kinds, text=text, **asked)
        negative_text = options.pop("negative_text", None)
        if negative_text is not None and wishes.texts is None:
            raise GenerationError("negative_text without text: there is nothing that it could change")
        retouch = options.pop("retouch", self.config.retouch) and prompt is None
        options, candidates, shown = self.options_for(wishes, options)
        seeds = self._seeds(seed, wishes.count)
        codes = prompt if prompt is None or isinstance(prompt, Tensor) else self.prompt_codes(prompt)
        sized = wishes if codes is not None else self._sized(wishes, seeds, options["max_faces"])
        conditions = sized.conditions(self.transformer.conditions_of, **shown)
        choose = partial(self._better, choice=_Choice(seeds, wishes, judge, retouch, options["max_faces"]))
        best: list[GeneratedMesh] = []
        with tqdm(total=wishes.count * candidates, disable=not progress, unit=" meshes") as bar:
            at_once = batch_size if on_face else max(1, batch_size // candidates)  # meshes: faces are told one by one
            for start in range(0, wishes.count, at_once):
                rows, result = range(start, min(start + at_once, wishes.count)), None
                together = 1 if on_face else max(1, batch_size // len(rows))  # candidates
                try:
                    for first in range(0, candidates, together):
                        rounds = range(first, min(first + together, candidates))
                        each = [row for _ in rounds for row in rows]
                        if negative_text is not None:
                            options["negative_texts"] = _entries(negative_text, each, wishes.count)
                        result = self.transformer.generate_result(
                            None if codes is None else codes.expand(len(each), -1),
                            len(each),
                            conditions=conditions.select(torch.tensor(each)),
                            seed=tuple(seeds[row] + CANDIDATE_STRIDE * round for round in rounds for row in rows),
                            on_face=_shifted(on_face, start),
                            progress=_shown_on(bar, start * candidates + rounds.stop * len(rows)),
                            **options,
                        )
                        best[start:] = choose(best[start:], rows, result)
                    for index, item in enumerate(best[start:] if on_mesh else (), start):
                        on_mesh(index, item)
                except KeyboardInterrupt as interrupt:
                    result = getattr(interrupt, "result", result)
                    if result is not None:
                        best[start:] = choose(best[start:], rows, result)
                    raise GenerationInterrupted(filter(_is_something, best), result) from interrupt
            bar.update(bar.total - bar.n)
        return best

    @no_type_check
    def complete(self, mesh, keep=0.5, **options) -> list[GeneratedMesh]:
        """Keeps the first `keep` (a share) of the faces of a mesh in the order of the tokenizer, and writes the rest.

        In canonical order these are the lowest; where faces share codes, those that the walk over the mesh meets first.
        The results stand where the mesh does. The other arguments are those of `generate`; where `faces` is not given
        and some are to be written, as many are asked for as the mesh has, of a model that takes a number. Raises
        `GenerationError` where nothing would be kept.
        """
        begun, frame, on_mesh = self._begun_codes(mesh, keep), Frame.of(mesh.bounds), options.pop("on_mesh", None)
        if keep < 1 and options.get("faces") is None and "num_faces" in self.transformer.config.kinds:
            options["faces"] = mesh.triangulated().num_faces if self.tokenizer.corners == 3 else mesh.num_faces

        def placed(item: GeneratedMesh) -> GeneratedMesh:
            return replace(item, mesh=frame.restore_mesh(self.decoded(item.codes)))

        def hand_over(index: int, item: GeneratedMesh) -> None:
            on_mesh(index, placed(item))

        try:
            written = self.generate(prompt=begun, on_mesh=hand_over if on_mesh else None, **options)
        except GenerationInterrupted as interrupt:
            interrupt.written = [placed(item) for item in interrupt.written]
            raise
        return [placed(item) for item in written]

    @no_type_check
    def begun(self, mesh, keep=0.5) -> Mesh:
        """What `complete` keeps: the first `keep` of the faces in the tokenizer's order; the mesh is normalised."""
        return self.tokenizer.decode(self._begun_codes(mesh, keep)[0])

    @no_type_check
    def _begun_codes(self, mesh, keep) -> Tensor:
        """Codes (1, n) of it."""
        if not isinstance(mesh, Mesh):
            raise GenerationError(f"the mesh to complete must be a Mesh, got {type(mesh).__name__}")
        if not 0 < keep <= 1:
            raise GenerationError(f"keep must be a share of the faces in (0, 1], got {keep}")
        normalized = self.tokenizer.with_own_corners(mesh.normalized())
        grid = canonicalize(normalized, self.tokenizer.num_discrete_coors).mesh()
        count = round(keep * grid.num_faces)
        if count == 0:
            raise GenerationError(f"{keep:g} of the {grid.num_faces} faces of the mesh is none: keep more")
        if self.tokenizer.tokens_per_face is None:
            codes = self.tokenizer.codes_from_batch(MeshBatch.from_meshes([grid]))
            faces = self.tokenizer.surroundings_of(codes).faces[0]
            return codes[:, : int((faces < count).sum())]
        return self.prompt_codes(Mesh(*drop_unused_vertices(grid.vertices, grid.faces[:count])))

    def options_for(self, wishes: Wishes, options: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, Any]]:
        """Keywords of the transformer, the number of candidates, and which points are shown of a shape."""
        scales = [options.get(name) for name in ("cond_scale", "cond_scale_end")]
        if not wishes.are_any and any(scale not in (None, 1) for scale in scales):
            raise GenerationError("cond_scale without anything asked for: give text, category, faces, points or mesh")
        usual = {name: value for name, value in self.config.to_dict().items() if name not in OF_THE_PIPELINE}
        options = {**usual, **options}
        candidates, shown = options.pop("candidates"), {name: options.pop(name) for name in SHOWN}
        for name, value in (("candidates", candidates), ("num_points", shown["num_points"])):
            if value < 1:
                raise GenerationError(f"{name} must be at least 1, got {value}")
        if not 0 <= shown["beside_edges"] <= 1:
            raise GenerationError(f"beside_edges must lie in [0, 1], got {shown['beside_edges']}")
        if options["follow_grammar"] is None:
            options["follow_grammar"] = self.tokenizer.grammar is not None
        if not wishes.are_any:
            options["cond_scale"] = 1.0
        return options, candidates, shown

    def _sized(self, wishes: Wishes, seeds: Sequence[int], most: int | None) -> Wishes:
        """With a number of faces for each mesh of which none is asked for, by its seed, well below `most`.

        The model is told it, and no candidate is measured by it. A mesh that follows a shape gets none.
        """
        usual, kinds = self.config.usual_faces, self.transformer.config.kinds
        if not usual or "num_faces" not in kinds or wishes.faces is not None or wishes.targets is not None:
            return wishes
        room = max(usual) if most is None else max(int(ROOM * most), 1)
        usual = [each for each in usual if each <= room] or [room]
        draws = [np.random.default_rng((seed, SIZES)).random() for seed in seeds]
        return replace(wishes, faces=[round(float(np.quantile(usual, draw))) for draw in draws])

    def _better(
        self, best: list[GeneratedMesh], rows: range, result: GenerationResult, *, choice: _Choice
    ) -> list[GeneratedMesh]:
        """Of each mesh the best so far, or what was written now if it is better; of no mesh yet: what was written.

        The result may have several candidates of each row, one round after the other.
        """
        wishes, judge = choice.wishes, choice.judge
        faces = [None] * len(rows) if wishes.faces is None else [wishes.faces[row] for row in rows]
        keys = [partial(faults, faces=each) for each in faces]
        for first in range(0, len(result.codes), len(rows)):
            new = []
            for index, row in enumerate(rows):
                target = None if wishes.targets is None else wishes.targets[row]
                codes, reason = result.codes[first + index], result.stopped_by[first + index]
                item = self.result_of(codes[codes >= 0], choice.seeds[row], reason, target)
                new.append(self._in_best_form(item, faces[index], choice))
            new = new if judge is None else judged(new, rows, wishes, judge)
            best = [min(pair, key=key) for *pair, key in zip(best, new, keys, strict=True)] if best else new
        return best

    def _in_best_form(self, item: GeneratedMesh, faces: int | None, choice: _Choice) -> GeneratedMesh:
        """With its doubt, and in the form of the least that has no more faces than it may; as it is for a shape."""
        if item.fit is not None:
            return item
        most, forms = choice.max_faces or np.inf, {WRITTEN: item.mesh}
        if choice.retouch:
            made = finished_forms(item.mesh, self.tokenizer.num_discrete_coors)
            forms = {name: mesh for name, mesh in made.items() if name == WRITTEN or mesh.num_faces <= most}
        doubts = self.doubts_of(list(forms.values()), 1.0 if choice.judge is None else BESIDE_JUDGE)
        found = [
            replace(item, mesh=mesh if name == WRITTEN else mesh.grounded(), form=name, doubt=doubt)
            for (name, mesh), doubt in zip(forms.items(), doubts, strict=True)
        ]
        return min(found, key=partial(faults, faces=faces))

    def doubts_of(self, meshes: Sequence[Mesh], share: float = 1.0) -> list[float]:
        """How little meshes look made by hand, in nats: `doubt`, less what the critic thinks of them by its weight.

        share: of that weight.
        """
        by_form, weight = [doubt(mesh) for mesh in meshes], share * self.config.critic_weight
        if self.critic is None or not weight:
            return by_form
        logits = self.critic.judge(meshes)
        return [
            each - weight * logit if np.isfinite(each) else each for each, logit in zip(by_form, logits, strict=True)
        ]

    def result_of(self, codes: Tensor, seed: int, reason: str, target: Target | None = None) -> GeneratedMesh:
        """What codes (n,) stand for: in the place of the shape to follow and compared with it, or on the ground."""
        if target is None:
            return GeneratedMesh(self.finished(codes), seed, codes, reason)
        mesh = self.decoded(codes)
        return GeneratedMesh(target.frame.restore_mesh(mesh), seed, codes, reason, target.compare(mesh))

    def _seeds(self, seed: int | np.integer | Sequence[int | np.integer] | None, num_meshes: int) -> list[int]:
        if seed is None:
            return [secrets.randbelow(2**31) for _ in range(num_meshes)]
        if isinstance(seed, (int, np.integer)):
            return [checked_seed(int(seed) + index) for index in range(num_meshes)]
        if len(seed) != num_meshes:
            raise GenerationError(f"{len(seed)} seeds for {num_meshes} meshes: give one for each, or a single number")
        return [checked_seed(int(each)) for each in seed]

    @no_type_check
    def prompt_codes(self, mesh) -> Tensor:
        """Codes (1, n) of the mesh to go on from, which is not normalised: it stays where it is in [-1, 1]."""
        if not isinstance(mesh, Mesh):
            raise GenerationError(f"prompt must be a Mesh, got {type(mesh).__name__}")
        reach = float(np.abs(mesh.bounds).max())
        if reach > 1:
            what = f"the prompt reaches to {reach:.3g}, outside [-1, 1]"
            raise GenerationError(f"{what}: place it where it should stand in the finished mesh, or use .normalized()")
        grid = canonicalize(self.tokenizer.with_own_corners(mesh), self.tokenizer.num_discrete_coors)
        if len(grid.faces) == 0:
            raise GenerationError(f"no face of the prompt {mesh!r} is left on the grid")
        return self.tokenizer.codes_from_batch(MeshBatch.from_meshes([grid.mesh()]))

    def finished(self, codes: Tensor) -> Mesh:
        """The mesh that codes stand for, finished and on the ground; an incomplete last face is left out."""
        return self.decoded(codes).grounded()

    def decoded(self, codes: Tensor) -> Mesh:
        """The same, where it lies in [-1, 1]."""
        unit = self.tokenizer.tokens_per_face
        mesh = self.tokenizer.decode(codes if unit is None else codes[: len(codes) // unit * unit])
        welded = canonicalize(mesh, self.tokenizer.num_discrete_coors).mesh()
        solid = Mesh(*drop_unused_vertices(welded.vertices, welded.faces[welded.face_areas > SMALLEST_AREA]))
        return orient(solid)

    def to(self, device: str | torch.device) -> "MeshPipeline":
        """Moves the models; returns the pipeline. Raises `ConfigError` for a device that is not there."""
        try:
            for model in (self.tokenizer, self.transformer, self.critic):
                if isinstance(model, nn.Module):
                    model.to(device)
        except (AssertionError, RuntimeError) as error:  # what torch raises, of a build without it as well
            why = str(error).splitlines()[0][:120]
            raise ConfigError(
                f"device '{device}' cannot be used here ({why}): use cpu, or install such a torch"
            ) from error
        return self

    @no_type_check
    def save_pretrained(self, folder, dtype=None, *, adapter_of=None, rank=8) -> Path:
        """Writes tokenizer, transformer and settings to one folder; `dtype` bfloat16 or float16 halves the bytes.

        "int8" makes them a quarter, "int6" a fifth, "int5" a sixth, of the transformer; the tokenizer, whose codes must
        stay, is then bfloat16. adapter_of and rank: of the transformer only what tells it from that of another
        pipeline, see `Pretrained.save_pretrained`.

        A pipeline that is there already is what `from_pretrained` finds until all of the new one is written.
        """
        with save_parts(folder) as fresh:
            self.tokenizer.save_pretrained(fresh / "tokenizer", dtype="bfloat16" if dtype in BITS else dtype)
            self.transformer.save_pretrained(fresh / "transformer", dtype=dtype, adapter_of=adapter_of, rank=rank)
            save_model(self, self.config, fresh / self.part)
            if self.critic is not None:
                self.critic.save_pretrained(fresh / self.critic.part, dtype=None if dtype is None else "bfloat16")
        return Path(folder)

    @classmethod
    @no_type_check
    def from_pretrained(cls, name_or_folder, *, device="cpu", revision=None, weights=None) -> "MeshPipeline":
        """The pipeline in a folder, one bundled with the package ("lowpoly"), or one on the Hub ("owner/name").

        weights: "int8" or "bfloat16" for writing on a CPU with matrices in fewer bits, see `compressed`; large models
        become several times faster. Raises `CheckpointError` for one that is missing, damaged, or of a tokenizer
        unknown here.
        """
        tokenizer = load_tokenizer(name_or_folder, revision)
        transformer = MeshTransformer.from_pretrained(name_or_folder, tokenizer, revision=revision)
        config = load_config(find_model(name_or_folder, cls.part, revision), cls)
        transformer = transformer if weights is None else compressed(transformer, weights)
        critic = MeshCritic.from_pretrained(name_or_folder, revision=revision) if config.critic_weight else None
        return cls(tokenizer, transformer, config, critic).to(device)

    def push_to_hub(self, repository: str, private: bool = False, dtype: str | None = None) -> str:
        """Uploads the pipeline to the Hub repository "owner/name", which is made if need be; gives its address."""
        return upload(self, repository, private, dtype)


def checked_seed(seed: int) -> int:
    """The seed; raises `GenerationError` for one beyond 62 bits, which leaves no room for candidates."""
    if abs(seed) >= 2**62:
        raise GenerationError(f"a seed must lie within +-2**62, got {seed}")
    return seed


@no_type_check
def load_tokenizer(name_or_folder, revision=None) -> MeshTokenizer:
    """The tokenizer in a folder (a run, a pipeline, its own), one bundled with the package, or one on the Hub.

    Raises `CheckpointError` for one that is missing, damaged, or of a kind unknown here.
    """
    folder = find_model(name_or_folder, "tokenizer", revision)
    kind = saved_class(folder)
    if kind not in TOKENIZERS:
        raise CheckpointError(f"{folder} holds a {kind}, which is none of the tokenizers here: {', '.join(TOKENIZERS)}")
    return getattr(import_module(f"meshgpt.tokenizers.{TOKENIZERS[kind]}"), kind).from_pretrained(folder)


def judged(items: list[GeneratedMesh], rows: Sequence[int], wishes: Wishes, judge: JUDGE) -> list[GeneratedMesh]:
    """With what a judge says of each for which a text or a category, and no shape, was asked for."""
    if wishes.texts is None and wishes.categories is None:
        return items
    asked = [(place, row) for place, row in enumerate(rows) if items[place].fit is None]
    if not asked:
        return items
    texts, categories = (
        [None if each is None else each[row] for _, row in asked] for each in (wishes.texts, wishes.categories)
    )
    found = judge([items[place].mesh for place, _ in asked], texts, categories)
    told = {place: match for (place, _), match in zip(asked, found, strict=True)}
    return [replace(item, match=told.get(place)) for place, item in enumerate(items)]


def faults(item: GeneratedMesh, faces: int | None = None) -> tuple[int, float, float]:
    """Orders candidates: ended by the model, by a limit, by Ctrl-C; then by how far they miss what was asked for."""
    ended = {"end": 0, "interrupted": 2}.get(item.stopped_by, 1)
    off = 0.0 if faces is None else max(0.0, abs(item.mesh.num_faces / faces - 1) - BUDGET_TOLERANCE)
    if item.fit is not None:
        return ended, off, item.fit.chamfer
    return ended, off, (doubt(item.mesh) if item.doubt is None else item.doubt) - (item.match or 0.0)


def _entries(value: Any, rows: Sequence[int], count: int) -> list[Any]:
    """Those of some rows of what is given for all of them, or once."""
    if not isinstance(value, (list, tuple)):
        return [value] * len(rows)
    if len(value) != count:
        raise GenerationError(f"{len(value)} for negative_text, but {count} meshes")
    return [value[row] for row in rows]


def _is_something(item: GeneratedMesh) -> bool:
    return item.mesh.num_faces > 0 or item.stopped_by != "interrupted"


def _shown_on(bar: Any, total: int) -> Callable[[int, int], None]:
    """Moves a bar of meshes, of which `total` are done when no row is being written any more."""

    def show(face: int, rows: int) -> None:
        bar.set_postfix(face=face, refresh=False)
        bar.update(total - rows - bar.n)

    return show


def _shifted(on_face: STREAMED | None, start: int) -> STREAMED | None:
    if on_face is None:
        return None
    return lambda row, face, codes: on_face(start + row, face, codes)
