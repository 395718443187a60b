"""`meshgpt evaluate`: what a model or a folder of meshes is worth, on a page. `meshgpt compare`: of two of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshgpt.cli.generate import GUIDANCE, SAMPLING, add_sampling, given
from meshgpt.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.mesh.mesh import Mesh
    from meshgpt.pipeline import MeshPipeline

REPORT_FILE = "report.html"
PER_CATEGORY = 5  # a category with fewer meshes has no row of its own in the printed tables


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    what = "measure a model, or a folder of meshes, and write a page"
    evaluate = commands.add_parser("evaluate", parents=[shared], help=what)
    evaluate.add_argument(
        "model", help="a pipeline or tokenizer (run, folder, bundled or Hub name), or mesh files' folder"
    )
    evaluate.add_argument("data", help="a data set; its val split is measured on, train is what may not be copied")
    evaluate.add_argument("-o", "--out", type=Path, help="folder of what is found (default: out/evaluation/MODEL)")
    add_measures(evaluate)
    add_sampling(evaluate)
    evaluate.add_argument("--cond-scale", type=float, help="above 1: do more of what is asked (default: of the model)")
    evaluate.set_defaults(run=run)

    compare = commands.add_parser("compare", parents=[shared], help="two evaluations side by side")
    compare.add_argument("a", help="the folder or result.json of an evaluation; or a model, where DATA is given")
    compare.add_argument("b", help="another one")
    compare.add_argument("data", nargs="?", help="a data set on which models are evaluated first")
    compare.add_argument("--page", type=Path, help="write the table as a page of HTML, too")
    add_measures(compare)
    add_sampling(compare)
    compare.add_argument("--cond-scale", type=float, help="above 1: do more of what is asked (default: of the model)")
    compare.set_defaults(run=run_compare)


def add_measures(command: argparse.ArgumentParser) -> None:
    """How much is measured; `--max-faces` is among the sampling arguments, and holds for real meshes as well."""
    command.add_argument("--train", metavar="DATA", help="the training set, where it is not in DATA")
    command.add_argument("--count", type=int, default=100, help="meshes of each set (default: 100)")
    command.add_argument("--seeds", type=int, default=3, help="sets, over which figures are means (default: 3)")
    command.add_argument("--points", type=int, default=2048, help="on each mesh (default: 2048)")
    where = "clouds fill a box whose longest side is 1, or a unit sphere, as in papers of 1,024 points (default: box)"
    command.add_argument("--normalise", "--normalize", choices=("box", "sphere"), default="box", help=where)
    how = "none, text (captions of val), name ('a CATEGORY'), category or points (default: none)"
    command.add_argument("--ask", default="none", help=f"how the model is asked: {how}")
    command.add_argument("--batch-size", type=int, default=16, help="meshes written together (default: 16)")
    command.add_argument("--no-novelty", action="store_true", help="do not look for the nearest training meshes")
    command.add_argument("--no-tokenizer", action="store_true", help="do not measure the tokenizer")
    command.add_argument("--views", help="another network for FID and KID, a folder")
    command.add_argument("--recognizer", help="another recognizer of categories and texts, a folder")


def run(arguments: argparse.Namespace) -> None:
    from meshgpt import __version__
    from meshgpt.evaluation.evaluate import Shown, evaluate_meshes, evaluate_tokenizer
    from meshgpt.evaluation.report import write_report
    from meshgpt.evaluation.results import save_result
    from meshgpt.evaluation.tables import tables_of
    from meshgpt.training.log import read_metrics

    config = settings(arguments)
    train, val = datasets(arguments)
    model, tokenizer, meshes = subject(arguments)
    out = arguments.out or Path("out", "evaluation", Path(arguments.model).name)
    figures: dict[str, Any] = {"model": arguments.model, "data": arguments.data, "version": __version__}
    shown = Shown()
    if model is not None or meshes:
        options = {**given(arguments, SAMPLING + GUIDANCE)}
        figures["options"] = options
        author = authored(model, meshes, out, arguments, options)
        found = evaluate_meshes(author, train, val, config, networks(arguments), tell=tell)
        figures, shown = {**figures, **found.figures}, found.shown
    if tokenizer is not None and not arguments.no_tokenizer:
        tell("the tokenizer, there and back")
        chosen = val if arguments.max_faces is None else val.filter(max_faces=arguments.max_faces)
        figures["tokenizer"] = evaluate_tokenizer(tokenizer, chosen)
    result = save_result(figures, out)
    log = [line for folder in near(arguments.model) for line in read_metrics(folder)]
    page = write_report(figures, out / REPORT_FILE, shown, log, card(arguments.model))
    for table in tables_of(figures):
        if table.title != "Tokenizer, by category":
            print(f"\n{table.markdown()}")
    print(f"\nfigures: {result}\npage: {page}")


def run_compare(arguments: argparse.Namespace) -> None:
    from meshgpt.evaluation.report import write_tables
    from meshgpt.evaluation.tables import comparison

    table = comparison(*(result_of(name, arguments) for name in (arguments.a, arguments.b)))
    print(f"\n{table.markdown()}")
    print(f"\n{table.note}" if table.note else "")
    if arguments.page is not None:
        print(f"page: {write_tables([table], arguments.page, f'{arguments.a} and {arguments.b}')}")


def result_of(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of that name; of a model the one that is found now, in its own folder."""
    from meshgpt.evaluation.results import load_result

    try:
        return load_result(name)
    except DataError:
        if arguments.data is None:
            raise
    out = Path("out", "evaluation", Path(name).name)
    run(argparse.Namespace(**{**vars(arguments), "model": name, "out": out}))
    return load_result(out)


def tell(line: str) -> None:
    import sys

    print(line, file=sys.stderr, flush=True)


def settings(arguments: argparse.Namespace) -> Any:
    from meshgpt.evaluation.evaluate import EvaluationConfig

    names = ("count", "seeds", "points", "normalise", "max_faces", "ask", "device")
    return EvaluationConfig(novelty=not arguments.no_novelty, **{name: getattr(arguments, name) for name in names})


def datasets(arguments: argparse.Namespace) -> "tuple[MeshDataset, MeshDataset]":
    """Train and val: of one data set, or of two, of which the second is measured on as it is or by its val split."""
    from meshgpt.data.dataset import MeshDataset

    data = MeshDataset(arguments.data)
    if arguments.train is None:
        return data.train_and_val()
    val = data.split("val") if "val" in data.splits else data
    train = MeshDataset(arguments.train)
    return train.split("train") if "train" in train.splits else train, val


def subject(arguments: argparse.Namespace) -> tuple[Any, Any, "list[Mesh]"]:
    """What is measured: a pipeline with its tokenizer, a tokenizer alone, or meshes."""
    from meshgpt.checkpoint import find_model
    from meshgpt.cli.inputs import LOSSLESS, mesh_files, named_tokenizer
    from meshgpt.mesh.files import read_mesh
    from meshgpt.pipeline import MeshPipeline

    name = arguments.model
    inner = Path(name) / "pipeline"
    for place in (str(inner), name) if (inner / "transformer").is_dir() else (name,):
        try:
            find_model(place, "transformer")
            pipe = MeshPipeline.from_pretrained(place, device=arguments.device)
            return pipe, pipe.tokenizer, []
        except CheckpointError:
            continue
    if name in LOSSLESS or not Path(name).is_dir() or _is_tokenizer(name):
        return None, named_tokenizer(name), []
    meshes = [read_mesh(path) for path, _ in mesh_files([Path(name)])]
    if not meshes:
        raise DataError(f"{name} holds no pipeline, no tokenizer and no mesh files: there is nothing to evaluate")
    return None, None, meshes


def _is_tokenizer(name: str) -> bool:
    from meshgpt.checkpoint import find_model

    try:
        find_model(name, "tokenizer")
    except CheckpointError:
        return False
    return True


def authored(
    model: "MeshPipeline | None",
    meshes: "list[Mesh]",
    out: Path,
    arguments: argparse.Namespace,
    options: dict[str, Any],
) -> Any:
    from meshgpt.evaluation.authors import MeshFolder, PipelineAuthor

    if model is None:
        return MeshFolder(meshes)
    return PipelineAuthor(model, out / "meshes", arguments.ask, arguments.batch_size, tell, **options)


def networks(arguments: argparse.Namespace) -> Any:
    from meshgpt.evaluation.evaluate import EVALUATORS, Networks
    from meshgpt.evaluation.recognition import ShapeRecognizer
    from meshgpt.evaluation.view_network import ViewNetwork

    views = ViewNetwork.from_pretrained(arguments.views or EVALUATORS)
    recognizer = ShapeRecognizer.from_pretrained(arguments.recognizer or EVALUATORS)
    return Networks(views.to(arguments.device), recognizer.to(arguments.device))


def near(model: str) -> list[Path]:
    """Folders that may hold the log of the run that a model came from."""
    folder = Path(model)
    return [folder, folder.parent] if folder.is_dir() else []


def card(model: str) -> str:
    """The model's README, where it has one."""
    from meshgpt.checkpoint import BUNDLED_MODELS

    places = [Path(model) / "README.md", Path(model) / "pipeline" / "README.md"]
    places += [BUNDLED_MODELS / model / "README.md"] if "/" not in model else []
    return next((path.read_text(encoding="utf-8") for path in places if path.is_file()), "")
