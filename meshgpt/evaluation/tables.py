"""Figures of an evaluation as tables: on a terminal, on a page, and beside those of another one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

from meshgpt.evaluation.published import GENERATION, TOKENIZERS

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """`rows` of cells, the first of each is its name; `note` says what one must know to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, ["---"] * len(self.columns), *self.rows)]
        return "\n".join([f"{self.title}\n", *lines])


@dataclass(frozen=True)
class Figure:
    """Where a figure lies in a result, `COLUMN` standing for whose it is, and how it is shown."""

    title: str
    path: tuple[str, ...]
    scale: float = 1.0
    digits: int = 2
    better: str = ""  # "lower", "higher" or "50": told beside its title


COLUMN = "*"
ARROWS = {"lower": " ↓", "higher": " ↑", "50": " → 50", "": ""}
SETS = (
    Figure("MMD x 1000", ("sets", COLUMN, "mmd"), 1000, 3, "lower"),
    Figure("COV, %", ("sets", COLUMN, "coverage"), 100, 1, "higher"),
    Figure("1-NNA, %", ("sets", COLUMN, "one_nn_accuracy"), 100, 1, "50"),
    Figure("JSD x 100", ("sets", COLUMN, "jsd"), 100, 2, "lower"),
    Figure("FID", ("sets", COLUMN, "fid"), 1, 3, "lower"),
    Figure("KID", ("sets", COLUMN, "kid"), 1, 3, "lower"),
)
MESHES = (
    Figure("meshes", ("meshes", COLUMN, "meshes"), 1, 0),
    Figure("vertices, mean", ("meshes", COLUMN, "vertices"), 1, 1),
    Figure("vertices, median", ("meshes", COLUMN, "vertices_median"), 1, 1),
    Figure("faces, mean", ("meshes", COLUMN, "faces"), 1, 1),
    Figure("faces, median", ("meshes", COLUMN, "faces_median"), 1, 1),
    Figure("parts, mean", ("meshes", COLUMN, "components"), 1, 2),
    Figure("empty, %", ("meshes", COLUMN, "empty"), 100, 1, "lower"),
    Figure("with degenerate faces, %", ("meshes", COLUMN, "degenerate"), 100, 1, "lower"),
    Figure("with duplicate faces, %", ("meshes", COLUMN, "duplicate"), 100, 1, "lower"),
    Figure("with non-manifold edges, %", ("meshes", COLUMN, "nonmanifold"), 100, 1, "lower"),
    Figure("wound inconsistently, %", ("meshes", COLUMN, "badly_wound"), 100, 1, "lower"),
    Figure("watertight, %", ("meshes", COLUMN, "watertight"), 100, 1),
    Figure("boundary edges, %", ("meshes", COLUMN, "boundary_edges"), 100, 2),
    Figure("non-manifold edges, %", ("meshes", COLUMN, "nonmanifold_edges"), 100, 2, "lower"),
    Figure("inconsistent edges, %", ("meshes", COLUMN, "inconsistent_edges"), 100, 2, "lower"),
)
WRITTEN = (
    Figure("ended by the model, %", ("written", "ended"), 100, 1, "higher"),
    Figure("degenerate faces in its tokens, % of meshes", ("written", "raw_degenerate"), 100, 1, "lower"),
    Figure("duplicate faces in its tokens, % of meshes", ("written", "raw_duplicate"), 100, 1, "lower"),
    Figure("faces a second, on this machine", ("written", "faces_per_second"), 1, 1, "higher"),
)
QUANTILES = {"5": "5 % quantile of the distance", "50": "median distance", "95": "95 % quantile of the distance"}
NOVELTY = (
    Figure("copies of a training mesh, %", ("novelty", COLUMN, "copies"), 100, 1, "lower"),
    Figure("of these face by face, %", ("novelty", COLUMN, "exact_copies"), 100, 1, "lower"),
    *(
        Figure(f"{name} to the nearest", ("novelty", COLUMN, "nearest_quantiles", mark), 1, 4)
        for mark, name in QUANTILES.items()
    ),
)
TEXTS = (
    Figure("category first, %", ("following", COLUMN, "category top-1"), 1, 1, "higher"),
    Figure("category among first 5, %", ("following", COLUMN, "category top-5"), 1, 1, "higher"),
    Figure("text first, R@1, %", ("following", COLUMN, "R@1"), 1, 1, "higher"),
    Figure("text among first 5, R@5, %", ("following", COLUMN, "R@5"), 1, 1, "higher"),
)
SURFACES = (
    Figure("Chamfer", ("following", COLUMN, "chamfer"), 1, 4, "lower"),
    Figure("Chamfer, squared, x 1000", ("following", COLUMN, "chamfer_squared"), 1000, 3, "lower"),
    Figure("Hausdorff", ("following", COLUMN, "hausdorff"), 1, 4, "lower"),
    Figure("normal consistency, unsigned", ("following", COLUMN, "normal_consistency"), 1, 3, "higher"),
    Figure("normal consistency, signed", ("following", COLUMN, "signed_normal_consistency"), 1, 3, "higher"),
    Figure("F-score", ("following", COLUMN, "f_score"), 1, 3, "higher"),
    Figure("without surface", ("following", COLUMN, "without_surface"), 1, 0, "lower"),
)
TOKENS = ("meshes", "triangles, %", "vertices, %", "winding, %", "L2 x 100", "tokens/face", "bits/face", "unigram bits",
          "codes used", "perplexity")  # fmt: skip
NAMES = {"generated": "generated", "train": "train meshes (floor)", "val": "val meshes"}


def normalisation(settings: dict[str, Any]) -> str:
    """How clouds were normalised: "box" or "sphere"; results of older versions do not say, and were of boxes."""
    return settings.get("normalise", "box")


@no_type_check
def tables_of(figures: dict[str, Any]) -> list[Table]:
    """Every table that a result has figures for."""
    return [table for table in _tables(figures) if table.rows]


@no_type_check
def _tables(figures: dict[str, Any]) -> Iterator[Table]:
    settings = figures.get("settings", {})
    if "sets" in figures:
        count, seeds, points = (settings[name] for name in ("count", "seeds", "points"))
        spread = f"mean and deviation of {seeds} sets" if seeds > 1 else "one set, so without deviation"
        where = f"{points} points each in a unit {normalisation(settings)}"
        note = f"{count} meshes beside {count} of val, {where}; {spread}. "
        note += (
            "FID and KID are of eight grey pictures of each mesh, with features of a network trained on such pictures"
        )
        yield _columns("Distance from val", SETS, figures, ("generated", "train"), f"{note}, not Inception-v3.")
    if "meshes" in figures:
        yield _columns("Meshes", MESHES, figures, tuple(figures["meshes"]), "Train and val: all of their meshes.")
    if "written" in figures:
        yield _columns("How they were written", WRITTEN, figures, ("generated",))
    if "novelty" in figures:
        threshold = figures["novelty"]["generated"]["copy_threshold"]
        note = (
            f"{figures['novelty']['of']} meshes each. Copy: mean vertex distance within {threshold:.4f} (box of side "
        )
        note += "2) after stretching, turns by quarters and mirroring. Chamfer: mean distance in a box of side 1.9."
        yield _columns("Novelty", NOVELTY, figures, ("generated", "val"), note)
    if figures.get("following"):
        of_surfaces = settings.get("ask") == "points"
        note = "What real meshes of val get is the most that can be expected."
        if not of_surfaces:
            note += f" R@k: among {figures['following'].get('texts')} texts."
        yield _columns(
            "Following what was asked", SURFACES if of_surfaces else TEXTS, figures, ("generated", "val"), note
        )
    for grouping, reports in figures.get("tokenizer", {}).items():
        title = {"all": "Tokenizer", "faces": "Tokenizer, by number of faces"}.get(
            grouping, f"Tokenizer, by {grouping}"
        )
        rows = [_tokens(name, report) for name, report in reports.items()]
        yield Table(title, ("", *TOKENS), rows, TOKEN_NOTE if grouping == "all" else "")


TOKEN_NOTE = (
    "meshes: accepted, of all. triangles: all 9 bins exact, in order; winding: of those that came back. L2: in a box "
    "of side 1.9. Bits a face: log2 of the vocabulary, and entropy of single tokens (unigram)."
)


def _columns(
    title: str, kinds: Sequence[Figure], figures: dict[str, Any], columns: tuple[str, ...], note: str = ""
) -> Table:
    rows = []
    for kind in kinds:
        cells = [cell(kind, value_at(figures, kind, column)) for column in columns]
        if set(cells) != {NOTHING}:
            rows.append([kind.title + ARROWS[kind.better], *cells])
    return Table(title, ("", *(NAMES[column] for column in columns)), rows, note)


@no_type_check
def value_at(figures: dict[str, Any], kind: Figure, column: str = "generated") -> Any:
    """The figure, a number or a dict of mean and deviation; None where the result has none."""
    value: Any = figures
    for name in kind.path:
        value = value.get(column if name == COLUMN else name) if isinstance(value, dict) else None
    return value


@no_type_check
def cell(kind: Figure, value: Any) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, dict):
        mean, deviation = (f"{kind.scale * value[name]:.{kind.digits}f}" for name in ("mean", "std"))
        return f"{mean} ± {deviation}" if len(value["values"]) > 1 else mean
    return f"{kind.scale * value:.{kind.digits}f}"


@no_type_check
def _tokens(name: str, report: dict[str, Any]) -> list[str]:
    shares = [f"{100 * report[key]:.2f}" for key in ("triangle_accuracy", "vertex_accuracy", "winding_agreement")]
    figures = [f"{report[key]:.2f}" for key in ("tokens_per_face", "vocabulary_bits", "unigram_bits")]
    codes = [f"{report['codes_in_use']} of {report['vocab_size']}", f"{report['perplexity']:.0f}"]
    distance = f"{100 * report['distance']:.3f}"
    return [name, f"{report['accepted']}/{report['meshes']}", *shares, distance, *figures, *codes]


@no_type_check
def published_tables(figures: dict[str, Any]) -> list[Table]:
    """Our figures above those of papers, where the definitions are the same."""
    tables = []
    if "sets" in figures:
        data, points = figures.get("data", "our data"), figures["settings"]["points"]
        own = [_own(figures, column, f"{name}, {data}", points) for column, name in OURS]
        protocol = points, normalisation(figures["settings"])
        papers = sorted(GENERATION, key=lambda row: (row.points, row.normalise) != protocol)
        note = PAPER_NOTE.format(here=protocol[1])
        tables.append(Table("Beside papers: what is written", PAPER_COLUMNS, [*own, *map(_published, papers)], note))
    if "tokenizer" in figures:
        report = figures["tokenizer"]["all"]["all"]
        own = [f"{figures.get('model', 'ours')}", str(figures.get("data", "our data"))]
        own += [f"{100 * report['triangle_accuracy']:.2f}", f"{100 * report['distance']:.3f}", "this evaluation"]
        rows = [own, *([row[0], row[1], f"{row[2]:.2f}", _or_nothing(row[3], 2), row[4]] for row in TOKENIZERS)]
        columns = ("tokenizer", "shapes", "triangle accuracy, %", "L2 x 100", "source")
        tables.append(
            Table("Beside papers: the tokenizer", columns, rows, "Other meshes on the same grid of 128 bins.")
        )
    return tables


OURS = (("generated", "generated"), ("train", "train meshes"))
PAPER_COLUMNS = (
    *("", "shapes", "points", "MMD x 1000 ↓", "COV, % ↑", "1-NNA, % → 50", "JSD x 100 ↓"),
    *("vertices", "faces", "source"),
)  # fmt: skip
PAPER_NOTE = (
    "The definitions of MMD, COV, 1-NNA and JSD are the same, the shapes are not: each row of a paper is one category "
    "of ShapeNet, ours are all categories together, and MMD grows with how different shapes are. The papers with 2,048 "
    "points bring meshes into a box whose longest side is 1, those with 1,024 into the unit sphere; here it is "
    "the {here} (--normalise). FID and KID are left out: they come from another network and other pictures."
)


def _own(figures: dict[str, Any], column: str, name: str, points: int) -> list[str]:
    cells = [cell(kind, value_at(figures, kind, column)) for kind in SETS[:4]]
    sizes = [
        cell(Figure("", ("meshes", COLUMN, key), 1, 0), figures["meshes"][column][key]) for key in ("vertices", "faces")
    ]
    return [name, "of all categories", str(points), *cells, *sizes, "this evaluation"]


def _published(row: Any) -> list[str]:
    figures = [_or_nothing(value, 2) for value in (row.mmd, row.coverage, row.one_nn, row.jsd)]
    sizes = [_or_nothing(value, 0) for value in (row.vertices, row.faces)]
    return [row.method, row.shapes, str(row.points), *figures, *sizes, row.source]


def _or_nothing(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


@no_type_check
def comparison(a: dict[str, Any], b: dict[str, Any]) -> Table:
    """Two results side by side, with the difference B - A and how many of its standard errors that is.

    The error is that of the means over seeds, so there is none for figures of one seed.
    """
    kinds = (*SETS, *MESHES, *WRITTEN, *NOVELTY, *(SURFACES if _asked_points(a) else TEXTS))
    rows = []
    for kind in kinds:
        values = [value_at(figures, kind) for figures in (a, b)]
        if None in values or kind.title == "meshes":
            continue
        rows.append(
            [kind.title + ARROWS[kind.better], *(cell(kind, value) for value in values), *_difference(kind, values)]
        )
    rows += _compared_tokens(a, b)
    names = [str(figures.get("model", name)) for figures, name in ((a, "A"), (b, "B"))]
    asked = [{"normalise": "box", **figures.get("settings", {})} for figures in (a, b)]
    note = "" if asked[0] == asked[1] and a.get("data") == b.get("data") else UNEQUAL
    return Table("Comparison", ("", *names, "B - A", "errors"), rows, note)


UNEQUAL = "The two were evaluated with different settings or data: figures of sets depend on both."


def _asked_points(figures: dict[str, Any]) -> bool:
    return figures.get("settings", {}).get("ask") == "points"


def _difference(kind: Figure, values: list[Any]) -> list[str]:
    means = [value["mean"] if isinstance(value, dict) else value for value in values]
    difference = f"{kind.scale * (means[1] - means[0]):+.{kind.digits}f}"
    if not all(isinstance(value, dict) and len(value["values"]) > 1 for value in values):
        return [difference, NOTHING]
    error = sum(value["std"] ** 2 / len(value["values"]) for value in values) ** 0.5
    return [difference, f"{(means[1] - means[0]) / error:+.1f}" if error else NOTHING]


def _compared_tokens(a: dict[str, Any], b: dict[str, Any]) -> list[list[str]]:
    reports = [figures.get("tokenizer", {}).get("all", {}).get("all") for figures in (a, b)]
    if None in reports:
        return []
    keys = (("triangle accuracy, % ↑", "triangle_accuracy", 100.0), ("tokens/face ↓", "tokens_per_face", 1.0))
    keys += (("unigram bits/face ↓", "unigram_bits", 1.0),)
    rows = []
    for title, key, scale in keys:
        one, other = (scale * report[key] for report in reports)
        rows.append([title, f"{one:.2f}", f"{other:.2f}", f"{other - one:+.2f}", NOTHING])
    return rows
