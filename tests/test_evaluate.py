"""An evaluation as a whole: what it measures, what it keeps, the commands and the page."""

import json
import re

import numpy as np
import pytest
import torch
from conditioned_toys import conditioned_pipeline
from conditioned_toys import knows_letters as knows_letters

from meshgpt.cli.main import main
from meshgpt.errors import ConditionError, ConfigError, DataError
from meshgpt.evaluation.authors import MeshFolder, PipelineAuthor, Written
from meshgpt.evaluation.charts import curves, histogram
from meshgpt.evaluation.evaluate import EvaluationConfig, Networks, Shown, evaluate_meshes, evaluate_tokenizer
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.evaluation.report import write_report
from meshgpt.evaluation.results import load_result, save_result
from meshgpt.evaluation.surface_following import surface_following
from meshgpt.evaluation.tables import comparison, published_tables, tables_of
from meshgpt.evaluation.view_network import ViewNetwork
from meshgpt.mesh.files import write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.coordinates import CoordinateTokenizer

NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int))
SMALL: dict = {"count": 4, "seeds": 2, "points": 64}


@pytest.fixture(scope="module")
def networks(tiny_dataset):
    torch.manual_seed(0)
    categories = tuple(tiny_dataset.categories)
    recognizer = {"dim": 2, "dim_hidden": 8, "dim_embed": 4, "num_points": 64, "resolution": 8, "dim_text": 3}
    return Networks(
        ViewNetwork(categories=categories, dim=2, size=16).eval(),
        ShapeRecognizer(categories=categories, text_encoder="letters", **recognizer).eval(),
    )


@pytest.fixture(scope="module")
def halves(tiny_dataset):
    return {"train": tiny_dataset[:40], "val": tiny_dataset[40:]}


@pytest.fixture(scope="module")
def found(halves, networks, tiny_meshes):
    """Of real meshes, none of which are in either half's place by chance."""
    return evaluate_meshes(MeshFolder(tiny_meshes[:8]), **halves, config=EvaluationConfig(**SMALL), networks=networks)


# what is measured


def test_every_figure_is_there_with_its_spread_and_the_floor_beside_it(found):
    figures = found.figures
    names = {"mmd", "coverage", "one_nn_accuracy", "jsd", "fid", "kid"}
    assert set(figures["sets"]["generated"]) == set(figures["sets"]["train"]) == names
    for figure in figures["sets"]["generated"].values():
        assert len(figure["values"]) == 2 and figure["mean"] == pytest.approx(np.mean(figure["values"]))
        assert figure["std"] == pytest.approx(np.std(figure["values"], ddof=1))
    assert figures["meshes"]["val"]["meshes"] == 24 and figures["meshes"]["generated"]["meshes"] == 8
    assert figures["written"]["ended"] is None  # nobody knows how meshes in a folder came about
    json.dumps(figures, allow_nan=False)


def test_training_meshes_are_found_to_be_copies_and_held_out_ones_are_not(found):
    novelty = found.figures["novelty"]
    assert novelty["generated"]["copies"] == 1 and novelty["generated"]["exact_copies"] == 1
    assert novelty["val"]["copies"] == 0 and novelty["of"] == 4
    assert len(found.shown.nearest) == len(found.shown.meshes) == 4
    assert all(
        near.num_faces == mesh.num_faces for near, mesh in zip(found.shown.nearest, found.shown.meshes, strict=True)
    )


def test_the_same_again_gives_the_same_and_val_itself_reaches_everything(halves, networks, tiny_meshes):
    config = EvaluationConfig(count=3, seeds=1, points=32, novelty=False)
    one, two = (
        evaluate_meshes(MeshFolder(tiny_meshes[:8]), **halves, config=config, networks=networks).figures
        for _ in range(2)
    )
    assert one == two and "novelty" not in one

    class Val:
        def write(self, seed, wanted):
            return [Written(record.mesh) for record in wanted]

    perfect = evaluate_meshes(Val(), **halves, config=config, networks=networks).figures["sets"]["generated"]
    assert perfect["coverage"]["mean"] == 1 and perfect["fid"]["mean"] == pytest.approx(0, abs=1e-6)
    assert perfect["mmd"]["mean"] < one["sets"]["generated"]["mmd"]["mean"]


def test_clouds_in_a_sphere_are_other_figures_and_the_papers_of_spheres_come_first(halves, networks, tiny_meshes):
    config = {"count": 3, "seeds": 1, "points": 64, "novelty": False}
    author = MeshFolder(tiny_meshes[:4])
    box, sphere = (
        evaluate_meshes(author, **halves, config=EvaluationConfig(**config, normalise=how), networks=networks).figures
        for how in ("box", "sphere")
    )
    assert sphere["sets"]["generated"]["mmd"]["mean"] > box["sets"]["generated"]["mmd"]["mean"]  # it is larger
    assert sphere["sets"]["generated"]["fid"] == box["sets"]["generated"]["fid"]
    assert "in a unit sphere" in tables_of(sphere)[0].note and "in a unit box" in tables_of(box)[0].note
    assert "different settings" in comparison(box, sphere).note
    older = {**box, "settings": {key: value for key, value in box["settings"].items() if key != "normalise"}}
    assert comparison(box, older).note == "" and "unit box" in tables_of(older)[0].note
    sphere["settings"]["points"] = 1024
    assert published_tables(sphere)[0].rows[2][2] == "1024" and published_tables(box)[0].rows[2][2] == "2048"


def test_sets_are_no_larger_than_what_there_is(halves, networks, tiny_dataset):
    config = EvaluationConfig(count=50, seeds=1, points=16, novelty=False)
    author = MeshFolder([tiny_dataset.mesh(index) for index in range(5)])
    figures = evaluate_meshes(author, halves["train"], halves["val"][:5], config, networks).figures
    assert figures["settings"]["count"] == 5
    with pytest.raises(DataError, match="2 are needed of each"):
        evaluate_meshes(author, halves["train"], halves["val"][:1], config, networks)
    with pytest.raises(DataError, match="6 meshes are wanted and there are 5"):
        evaluate_meshes(author, halves["train"], halves["val"][:6], config, networks)
    with pytest.raises(DataError, match="no meshes to evaluate"):
        MeshFolder([])


@pytest.mark.parametrize(
    "fields", [{"count": 1}, {"seeds": 0}, {"points": 0}, {"max_faces": 0}, {"ask": "nicely"}, {"normalise": "cube"}]
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ConfigError):
        EvaluationConfig(**fields)


def test_surfaces_are_compared_pair_by_pair(tiny_meshes):
    pair = surface_following([tiny_meshes[0], NOTHING], tiny_meshes[:2], count=500).to_dict()
    assert pair["pairs"] == 2 and pair["without_surface"] == 1 and pair["chamfer"] == pair["chamfer_median"] < 0.1
    large = [Mesh(mesh.vertices * 7 + 3, mesh.faces) for mesh in tiny_meshes[:1]]
    moved = surface_following(large, large, count=500).to_dict()
    assert moved["chamfer"] == pytest.approx(pair["chamfer"], rel=1e-6)  # wherever both stand
    assert surface_following([NOTHING], tiny_meshes[:1]).to_dict()["chamfer"] is None
    with pytest.raises(DataError, match="give one for each"):
        surface_following([], tiny_meshes[:1])


# meshes that are written and kept


def authors(tmp_path, **options):
    return PipelineAuthor(conditioned_pipeline(), tmp_path / "meshes", **{"batch_size": 2, **options})


def test_what_was_written_is_kept_and_never_written_again(tmp_path, tiny_dataset, knows_letters, monkeypatch):
    told, wanted = [], tiny_dataset[:3]
    first = authors(tmp_path, tell=told.append).write(1, wanted)
    assert len(first) == 3 and told == ["seed 1: 2 of 3 meshes", "seed 1: 3 of 3 meshes"]
    again = authors(tmp_path)
    monkeypatch.setattr(again.pipe, "generate", lambda **options: pytest.fail("written again"))
    second = again.write(1, wanted)
    assert all(
        np.array_equal(a.mesh.vertices, b.mesh.vertices) and a.seconds == b.seconds
        for a, b in zip(first, second, strict=True)
    )
    assert all(item.stopped_by for item in second)


def test_a_judge_chooses_and_is_remembered(tmp_path, tiny_dataset, knows_letters):
    heard = []

    def judge(meshes, texts, categories):
        heard.extend(texts)
        return [float(mesh.num_faces) for mesh in meshes]

    options = {"ask": "name", "judge": judge, "candidates": 3, "max_faces": 6}
    chosen = authors(tmp_path, **options).write(0, tiny_dataset[:2])
    assert len(chosen) == 2 and heard.count("a book") == heard.count("a key") == 3
    with pytest.raises(DataError, match="written otherwise .judge function, now None"):
        authors(tmp_path, **{**options, "judge": None})


def test_a_run_that_was_stopped_goes_on_and_damage_is_repaired(tmp_path, tiny_dataset, knows_letters):
    wanted = tiny_dataset[:3]
    whole = authors(tmp_path).write(0, wanted)
    files = sorted((tmp_path / "meshes" / "seed-0").glob("*.npz"))
    files[1].write_bytes(b"half a fi")
    files[2].unlink()
    told = []
    again = authors(tmp_path, tell=told.append).write(0, wanted)
    assert told == ["seed 0: 3 of 3 meshes"]
    assert all(np.array_equal(a.mesh.faces, b.mesh.faces) for a, b in zip(whole, again, strict=True))


def test_meshes_that_were_written_otherwise_are_not_mixed_in(tmp_path, knows_letters):
    authors(tmp_path)
    with pytest.raises(DataError, match="written otherwise .options"):
        authors(tmp_path, temperature=0.5)
    with pytest.raises(DataError, match="written otherwise .ask none, now points"):
        authors(tmp_path, ask="points")
    other = conditioned_pipeline()
    with torch.no_grad():
        next(other.transformer.parameters()).add_(1.0)
    with pytest.raises(DataError, match="written otherwise .model"):
        PipelineAuthor(other, tmp_path / "meshes")


@pytest.mark.parametrize(
    ("ask", "key"), [("text", "text"), ("name", "text"), ("category", "category"), ("points", "mesh")]
)
def test_models_are_asked_for_what_the_records_are(tmp_path, tiny_dataset, knows_letters, monkeypatch, ask, key):
    author = authors(tmp_path, ask=ask)
    asked, generate = [], author.pipe.generate
    monkeypatch.setattr(
        author.pipe, "generate", lambda **options: asked.append(options.pop(key)) or generate(**options)
    )
    author.write(0, tiny_dataset[:2])
    wanted = {"text": "caption", "category": "category"}.get(ask)
    if wanted:
        assert asked == [tiny_dataset.column(wanted)[:2].tolist()]
    else:
        assert ask == "points" or asked == [["a book", "a key"]]


def test_models_are_not_asked_for_what_they_do_not_know(tmp_path):
    deaf = conditioned_pipeline(condition_on_faces=True)
    with pytest.raises(ConditionError, match="cannot be asked by text"):
        PipelineAuthor(deaf, tmp_path, ask="text")
    with pytest.raises(ConfigError, match="not by 'please'"):
        PipelineAuthor(deaf, tmp_path, ask="please")


def test_how_well_a_model_follows_is_measured_beside_real_meshes(tmp_path, halves, networks, knows_letters):
    for ask, key in (("text", "R@1"), ("points", "chamfer")):
        author = PipelineAuthor(conditioned_pipeline(), tmp_path / ask, ask)
        config = EvaluationConfig(count=3, seeds=1, points=32, ask=ask, novelty=False)
        figures = evaluate_meshes(author, **halves, config=config, networks=networks).figures
        assert set(figures["following"]) >= {"generated", "val"} and key in figures["following"]["val"]
        assert any(table.title.startswith("Following") for table in tables_of(figures))
        assert figures["written"]["faces_per_second"] > 0 and figures["written"]["raw_degenerate"] <= 1


# on disk, as tables and as a page


def test_results_come_back_and_other_files_are_refused(found, tmp_path):
    save_result(found.figures, tmp_path / "a")
    assert load_result(tmp_path / "a")["sets"] == found.figures["sets"]
    (tmp_path / "b.json").write_text("{}")
    for bad in (tmp_path / "b.json", tmp_path / "nothing"):
        with pytest.raises(DataError, match="is no result of an evaluation"):
            load_result(bad)


def test_tables_say_what_was_measured(found, tiny_dataset):
    figures = {**found.figures, "tokenizer": evaluate_tokenizer(CoordinateTokenizer(), tiny_dataset[:6])}
    tables = {table.title: table for table in tables_of(figures)}
    assert {"Distance from val", "Meshes", "Novelty", "Tokenizer", "Tokenizer, by category"} <= set(tables)
    assert "How they were written" not in tables
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)
    assert "±" in tables["Distance from val"].markdown() and tables["Tokenizer"].rows[0][2] == "100.00"
    papers = published_tables(figures)
    assert [len(set(map(len, [table.columns, *table.rows]))) for table in papers] == [1, 1]


def test_a_comparison_has_differences_and_their_errors(found):
    a = {**found.figures, "model": "one", "data": "tiny"}
    b = json.loads(json.dumps({**a, "model": "other"}))
    mmd = b["sets"]["generated"]["mmd"]
    mmd["mean"], mmd["std"] = mmd["mean"] + 0.001, 0.0
    row = comparison(a, b).rows[0]
    error = a["sets"]["generated"]["mmd"]["std"] / 2**0.5
    assert row[0].startswith("MMD") and row[3] == "+1.000" and float(row[4]) == pytest.approx(0.001 / error, abs=0.06)
    assert comparison(a, a).note == "" and "different settings" in comparison(a, {**b, "data": "another"}).note


def test_the_page_holds_everything_and_nothing_from_outside(found, tmp_path):
    figures = {**found.figures, "model": "<script>alert(1)</script>", "data": "tiny"}
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    path = write_report(figures, tmp_path / "new" / "report.html", found.shown, log, "# a card & more")
    page = path.read_text(encoding="utf-8")
    outside = re.sub(r'srcdoc="[^"]*"', "", page)
    assert "<script" not in outside and "&lt;script&gt;" in outside and "a card &amp; more" in outside
    assert not re.findall(r'(?:src|href)="(?!data:)', outside) and outside.count("data:image/png") == 5
    assert "loss while it was trained" in outside and 'sandbox="allow-scripts' in outside
    assert "1-NNA" in outside and "MeshGPT, arXiv:2311.15475" in outside
    frame = re.search(r'srcdoc="([^"]*)"', page)
    assert frame and "Content-Security-Policy" in frame[1]


def test_a_page_of_little_is_a_page(tmp_path):
    page = write_report({"model": "m"}, tmp_path / "r.html", Shown([NOTHING], ["0 faces"])).read_text(encoding="utf-8")
    assert "<h1>m</h1>" in page and "<iframe" not in page and "<img" not in page


def test_drawings_of_nothing_are_nothing_and_names_are_text():
    assert histogram({"a": []}, "t") == "" and curves({"a": ([1.0], [float("nan")])}, "t") == ""
    drawn = histogram({"<b>": [1.0, 2.0, 2.0], "c": [5.0]}, "a & b")
    assert drawn.count("<polyline points") == 2 and "&lt;b&gt;" in drawn and "a &amp; b" in drawn and "nan" not in drawn
    assert "nan" not in curves({"flat": ([1, 2], [3, 3])}, "t", "step") and "nan" not in histogram({"one": [2.0]}, "t")


# the commands


@pytest.fixture
def letters_networks(networks, tmp_path):
    networks.views.save_pretrained(tmp_path / "n" / "views")
    networks.recognizer.save_pretrained(tmp_path / "n" / "recognizer")
    return ["--views", str(tmp_path / "n"), "--recognizer", str(tmp_path / "n")]


def test_the_command_measures_a_model_and_compare_two_results(tmp_path, letters_networks, knows_letters, capsys):
    conditioned_pipeline().save_pretrained(tmp_path / "run" / "pipeline")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    words = ["evaluate", str(tmp_path / "run"), "tiny", "--count", "3", "--seeds", "1", "--points", "32", "--debug"]
    words += [*letters_networks, "--max-faces", "12"]
    with pytest.raises(DataError):  # no mesh of tiny is that small
        main([*words, "--out", str(tmp_path / "x")])
    words[-1] = "200"
    for temperature in ("1", "0.5"):
        assert main([*words, "--temperature", temperature, "--out", str(tmp_path / temperature)]) == 0
        words.append("--no-novelty")
    shown = capsys.readouterr().out
    assert "| MMD x 1000" in shown and "| ended by the model" in shown and "report.html" in shown
    assert "loss while it was trained" in (tmp_path / "1" / "report.html").read_text(encoding="utf-8")
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "0.5")]) == 0
    assert "| B - A |" in capsys.readouterr().out


def test_two_tokenizers_are_evaluated_and_compared_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "coordinates", "patches", "tiny", "--page", "new/c.html", "--debug"]) == 0
    shown = capsys.readouterr().out
    assert (
        "| tokens/face ↓ | 9.00 | " in shown and (tmp_path / "out" / "evaluation" / "patches" / "result.json").exists()
    )
    assert "coordinates and patches" in (tmp_path / "new" / "c.html").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="give the data set"):
        main(["compare", "half-edges", "patches", "--debug"])


def test_the_command_measures_a_folder_of_meshes_and_a_tokenizer(
    tmp_path, letters_networks, tiny_meshes, knows_letters, capsys
):
    (tmp_path / "meshes").mkdir()
    for index in range(4):
        write_mesh(tiny_meshes[index], tmp_path / "meshes" / f"{index}.obj")
    words = ["--count", "3", "--seeds", "1", "--points", "32", "--no-novelty", "--out", str(tmp_path / "o"), "--debug"]
    assert main(["evaluate", str(tmp_path / "meshes"), "tiny", "--train", "tiny", *words, *letters_networks]) == 0
    assert "| 1-NNA" in capsys.readouterr().out
    assert main(["evaluate", "coordinates", "tiny", *words]) == 0
    assert "| all |" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing to evaluate"):
        main(["evaluate", str(tmp_path / "empty"), "tiny", *words])


def test_the_networks_that_come_with_the_package_look():
    networks = Networks.bundled()
    assert networks.views.config.accuracy > 0.2 and len(networks.views.config.categories) > 50
    assert networks.recognizer is not None and len(networks.recognizer.config.categories) > 50
