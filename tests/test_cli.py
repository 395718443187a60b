"""The command line: every command does its work and says so; errors are one line, with the right status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from meshgpt import __version__
from meshgpt.cli.generate import Saved, save_page
from meshgpt.cli.main import main, parser
from meshgpt.cli.settings import value_of
from meshgpt.data.dataset import MeshDataset
from meshgpt.data.inspect import inspect_dataset
from meshgpt.errors import (
    CheckpointError,
    CodesError,
    ConfigError,
    DataError,
    GenerationError,
    MeshFileError,
    TrainingError,
)
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.files import read_mesh, write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.pipeline import MeshPipeline
from meshgpt.tokenizers.autoencoder import MeshAutoencoder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tiny_meshes, tmp_path):
    """Three mesh files in a folder, one of them below, beside a bad one and one of another kind."""
    (tmp_path / "meshes" / "below").mkdir(parents=True)
    write_mesh(tiny_meshes[0], tmp_path / "meshes" / "a.obj")
    write_mesh(tiny_meshes[1], tmp_path / "meshes" / "b.glb")
    write_mesh(tiny_meshes[2], tmp_path / "meshes" / "below" / "a.ply")
    (tmp_path / "meshes" / "bad.obj").write_text("v 0 0 0\n")
    (tmp_path / "meshes" / "notes.txt").write_text("not a mesh")
    return tmp_path / "meshes"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A small tokenizer, untrained, as a folder."""
    tokenizer = MeshAutoencoder(
        encoder_dims_through_depth=(32,), decoder_dims_through_depth=(32,), dim_codebook=16, codebook_size=16
    )
    return tokenizer.save_pretrained(tmp_path_factory.mktemp("tokenizer"))


def commands():
    """Every command and action that the parser knows, as the words one types."""
    [top] = [action for action in parser()._actions if hasattr(action, "choices") and action.choices]
    for name, command in top.choices.items():
        inner = [action for action in command._actions if action.dest == "==SUPPRESS==" and action.choices]
        yield from ([name, action] for group in inner for action in group.choices) if inner else [[name]]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_explains_itself(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert f"usage: meshgpt {' '.join(words)}" in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = "import sys\ntry: from meshgpt.cli.main import main; main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'numpy', 'trimesh', 'PIL') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TYPECHECK": "false"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_package_runs_as_a_module(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "meshgpt", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    assert done.stdout == f"meshgpt {__version__}\n"


@pytest.mark.parametrize("words", [[], ["nonsense"], ["data"], ["render"], ["data", "build", "x"]])
def test_wrong_usage_ends_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: meshgpt" in capsys.readouterr().err


def test_an_error_is_one_line_without_a_traceback_unless_asked_for(tmp_path, capsys):
    words = ["view", str(tmp_path / "absent.glb"), "-o", str(tmp_path / "page.html")]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert message.startswith("meshgpt: MeshFileError:") and message.count("\n") == 1
    with pytest.raises(MeshFileError):
        main([*words, "--debug"])


def test_an_interruption_ends_with_status_130(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("meshgpt.cli.doctor.run", interrupted)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "meshgpt: interrupted\n"


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from meshgpt.cli.main import main; sys.exit(main(['doctor']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TYPECHECK": "false"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0
    process.stderr.close()


def test_doctor_shows_versions_models_and_limits(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("python", "torch ", "TYPECHECK", "data set 'tiny'", "64 meshes of 28 to 200 faces", "max_faces"):
        assert word in shown


def test_view_writes_a_page_and_reports_the_bad_file(folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["view", str(folder), "-o", str(page), "--title", "Three meshes"]) == 0
    shown = capsys.readouterr()
    assert "3 meshes" in shown.out
    assert shown.err.count("\n") == 1 and "left out:" in shown.err and "bad.obj" in shown.err
    text = page.read_text(encoding="utf-8")
    assert "Three meshes" in text and '"below/a"' in text


def test_view_of_a_folder_without_meshes_says_so(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 1
    assert f"DataError: no mesh in {tmp_path}" in capsys.readouterr().err
    with pytest.raises(DataError):
        main(["view", str(tmp_path), "--debug"])


@pytest.mark.parametrize(
    ("names", "out", "start"),
    [
        (["a.obj"], "one.png", b"\x89PNG"),
        (["a.obj", "b.glb"], "sheet.png", b"\x89PNG"),
        (["a.obj"], "turn.gif", b"GIF8"),
    ],
)
def test_render_draws_one_many_or_a_turn(folder, tmp_path, capsys, names, out, start):
    words = ["--size", "48", "--azimuth", "30", "--no-wireframe", "-o", str(tmp_path / out)]
    assert main(["render", *(str(folder / name) for name in names), *words]) == 0
    assert (tmp_path / out).read_bytes().startswith(start)
    assert f"{out}: {len(names)} mesh" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "0"], "size"),
        (["--columns", "0"], "--columns must be at least 1, got 0"),
        (["-o", "picture.jpg"], "pictures are written as .png, one that turns as .gif"),
    ],
)
def test_pictures_that_cannot_be_are_refused(folder, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert main(["render", str(folder / "a.obj"), *words]) == 1
    assert says in capsys.readouterr().err and not list(tmp_path.glob("*.png")) + list(tmp_path.glob("*.jpg"))


def test_a_folder_becomes_a_data_set_that_can_be_inspected(folder, tmp_path, capsys):
    built = tmp_path / "built"
    assert main(["data", "build", str(folder), "-o", str(built), "--workers", "0", "--licence", "CC0-1.0"]) == 0
    assert "3 meshes" in capsys.readouterr().out
    assert json.loads((built / "report.json").read_text())["reasons"] == {"unreadable": 1}
    sheet = tmp_path / "sheet.png"
    assert main(["data", "inspect", str(built), "-o", str(sheet), "--size", "32"]) == 0
    shown = capsys.readouterr().out
    assert inspect_dataset(MeshDataset(built)).table() in shown and sheet.exists()
    assert "3 meshes" in shown and "CC0-1.0" in shown and "consistently wound" in shown


def test_inspect_of_something_else_is_our_error(tmp_path, capsys):
    assert main(["data", "inspect", str(tmp_path / "absent")]) == 1
    assert "meshgpt: DataError:" in capsys.readouterr().err


def test_a_mesh_becomes_ids_and_the_ids_a_mesh(folder, tmp_path, capsys, tokenizer_folder):
    ids, mesh = tmp_path / "a.npy", tmp_path / "a.glb"
    assert main(["tokenize", str(folder / "a.obj"), "-o", str(ids), "--model", str(tokenizer_folder)]) == 0
    assert "ids below 16" in capsys.readouterr().out
    assert np.load(ids).dtype.kind == "i" and np.load(ids).ndim == 1
    assert main(["detokenize", str(ids), "-o", str(mesh), "--model", str(tokenizer_folder)]) == 0
    tokenizer = MeshAutoencoder.from_pretrained(tokenizer_folder)
    again = tokenizer.decode(tokenizer.encode(read_mesh(folder / "a.obj")))
    assert f"{again.num_faces} faces" in capsys.readouterr().out
    assert 0 < read_mesh(mesh).num_faces <= again.num_faces


def test_a_mesh_becomes_raw_coordinates_and_comes_back_whole(folder, tmp_path, tiny_meshes):
    ids, mesh = tmp_path / "a.npy", tmp_path / "a.obj"
    assert main(["tokenize", str(folder / "a.obj"), "-o", str(ids), "--model", "coordinates"]) == 0
    assert main(["detokenize", str(ids), "-o", str(mesh), "--model", "coordinates"]) == 0
    assert canonicalize(read_mesh(mesh)) == canonicalize(tiny_meshes[0].normalized())


def test_a_model_that_is_no_tokenizer_is_refused(runs, folder):
    words = ["tokenize", str(folder / "a.obj"), "--model", str(runs / "m"), "--debug"]
    with pytest.raises(CheckpointError, match="holds a MeshTransformer, which is none of the tokenizers here"):
        main(words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 2), dtype=np.int64), "holds int64 of shape \\(2, 2\\)"),
        (np.zeros(3), "holds float64"),
        (b"\x93NUMPY nonsense", "is no .npy file"),
    ],
)
def test_a_file_that_holds_no_ids_is_refused(tmp_path, tokenizer_folder, content, message):
    path = tmp_path / "ids.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(CodesError, match=message):
        main(["detokenize", str(path), "--model", str(tokenizer_folder), "--debug"])


TINY_TOKENIZER = ("encoder_dims_through_depth=[16]", "decoder_dims_through_depth=[16]", "dim_codebook=16")
TINY_TRANSFORMER = ("dim=[32,32]", "attn_depth=1", "attn_heads=2", "fine_attn_heads=2", "attn_dim_head=16")
TWO_STEPS = ("num_train_steps=2", "batch_size=2", "checkpoint_every=1", "val_every=2", "val_num_batches=1")


def with_settings(*settings):
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer and a transformer trained for two steps by the command line: the folder of both runs."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["--preset", "tiny", "--max-faces", "60", "--no-val", *with_settings(*TWO_STEPS, "progress=false")]
    tokenizer = ["train", "tokenizer", "tiny", "--out", str(folder / "t"), *words, *with_settings(*TINY_TOKENIZER)]
    assert main([*tokenizer, "--debug"]) == 0
    transformer = ["train", "transformer", "tiny", "--tokenizer", str(folder / "t"), "--out", str(folder / "m"), *words]
    transformer += ["--no-augment", *with_settings(*TINY_TRANSFORMER, "fine_attn_dim_head=16", "max_seq_len=600")]
    assert main([*transformer, "--debug"]) == 0
    return folder


def test_training_leaves_models_that_can_be_loaded(runs):
    assert MeshAutoencoder.from_pretrained(runs / "t").config.dim_codebook == 16
    pipe = MeshPipeline.from_pretrained(runs / "m" / "pipeline")
    assert pipe.transformer.config.dims == (32, 32) and pipe.tokenizer.config.dim_codebook == 16


def test_a_run_goes_on_with_resume_and_only_then(runs, capsys):
    words = ["train", "tokenizer", "tiny", "--out", str(runs / "t"), "--preset", "tiny", "--max-faces", "60"]
    words += ["--no-val", *with_settings(*TWO_STEPS, *TINY_TOKENIZER, "num_train_steps=3", "progress=false")]
    assert main(words) == 1
    assert "TrainingError" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert f"{runs / 't'}: step 3" in capsys.readouterr().out


@pytest.mark.parametrize("balance", ["none", "category", "source", "faces"])
def test_meshes_are_drawn_as_balance_says(tmp_path, monkeypatch, balance, tiny_dataset):
    def stop(trainer, arguments):
        drawn.append(trainer.weights)

    drawn = []
    monkeypatch.setattr("meshgpt.cli.train.finish", stop)
    words = ["train", "tokenizer", "tiny", "--out", str(tmp_path), "--preset", "tiny", "--no-val"]
    assert main([*words, "--balance", balance, *with_settings(*TINY_TOKENIZER, "max_faces_per_batch=2000")]) == 0
    if balance == "none":
        assert drawn == [None]
    else:
        assert np.array_equal(drawn[0], tiny_dataset.balanced_weights((balance,)))


def test_resuming_from_nothing_is_an_error(tmp_path):
    words = ["train", "tokenizer", "tiny", "--out", str(tmp_path / "none"), "--preset", "tiny", "--resume", "--debug"]
    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        main([*words, *with_settings(*TINY_TOKENIZER)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("learning_rte=1", "did you mean 'learning_rate'"),
        ("zzzzz=1", "fields: .*attn_heads"),
        ("learning_rate", "write FIELD=VALUE"),
        ("num_train_steps=0", "num_train_steps must be at least 1"),
        ("quads=False", "quads must be true or false, got 'False'"),
        ("checkpoint_folder=there", "the folder of a run is named by --out"),
    ],
)
def test_a_setting_that_is_none_is_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        main(["train", "tokenizer", "tiny", "--out", str(tmp_path / "x"), "--debug", "--set", change])


@pytest.mark.parametrize(
    ("text", "value"),
    [("224,112", [224, 112]), ("0.5, 1", [0.5, 1]), ("[1,2]", [1, 2]), ("3", 3), ("true", True), ("none", "none")]
    + [(text, text) for text in ("chair,table", "1,true", "1,", ",", "", "1,x", '1],"a"')],
)
def test_numbers_with_commas_between_are_a_list_and_other_text_is_text(text, value):
    assert value_of(text) == value


def test_training_on_no_mesh_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no mesh of tiny has at most 3 faces"):
        main(["train", "tokenizer", "tiny", "--out", str(tmp_path / "x"), "--max-faces", "3", "--debug"])


@pytest.mark.filterwarnings("ignore:.*were cut off")
def test_generate_writes_files_that_say_how_they_came_about(runs, tmp_path, capsys):
    words = ["generate", "--model", str(runs / "m" / "pipeline"), "-n", "2", "--seed", "7", "--max-faces", "6"]
    words += ["--candidates", "1"]
    assert main([*words, "--temperature", "0.9", "-o", str(tmp_path), "--view"]) == 0
    shown = capsys.readouterr().out
    assert "seed 7," in shown and "seed 8," in shown and (tmp_path / "index.html").exists()
    saved = (tmp_path / "seed-7.glb").read_bytes()
    assert b'"seed":7' in saved.replace(b" ", b"") and b'"temperature":0.9' in saved.replace(b" ", b"")
    assert 0 < read_mesh(tmp_path / "seed-7.glb").num_faces <= 6
    again = tmp_path / "again"
    assert main([*words, "--temperature", "0.9", "-o", str(again)]) == 0
    assert (again / "seed-8.glb").read_bytes() == (tmp_path / "seed-8.glb").read_bytes()


def test_generate_reads_weights_in_fewer_bits_and_says_so(runs, tmp_path):
    words = ["generate", "--model", str(runs / "m" / "pipeline"), "-n", "1", "--seed", "7", "--max-faces", "3"]
    for weights in ("int8", "bfloat16"):
        assert main([*words, "--candidates", "1", "--weights", weights, "-o", str(tmp_path / weights)]) == 0
        saved = (tmp_path / weights / "seed-7.glb").read_bytes().replace(b" ", b"")
        assert f'"weights":"{weights}"'.encode() in saved
    with pytest.raises(SystemExit):
        main([*words, "--weights", "int4"])


def test_generate_goes_on_from_a_begun_mesh(runs, tiny_meshes, tmp_path, capsys):
    begun = Mesh(tiny_meshes[0].vertices * 100, tiny_meshes[0].faces[:4])
    write_mesh(begun, tmp_path / "begun.obj")
    words = ["generate", "--model", str(runs / "m" / "pipeline"), "-n", "1", "--seed", "0", "--max-faces", "8"]
    assert main([*words, "--prompt", str(tmp_path / "begun.obj"), "-o", str(tmp_path), "--format", "obj"]) == 0
    assert "seed-0.obj: seed 0" in capsys.readouterr().out


def test_a_format_that_cannot_be_written_is_refused_before_anything_is_generated(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(MeshPipeline, "generate", None)
    words = ["generate", "--model", str(runs / "m" / "pipeline"), "-o", str(tmp_path), "--debug"]
    with pytest.raises(MeshFileError, match="--format fbx: meshes are written as obj, glb"):
        main([*words, "--format", "fbx"])
    (tmp_path / "file").write_text("")
    with pytest.raises(MeshFileError, match="is a file: name a folder with --out"):
        main([*words, "-o", str(tmp_path / "file")])


@pytest.mark.filterwarnings("ignore:.*were cut off")
def test_what_was_generated_before_an_interruption_is_saved(runs, tmp_path, monkeypatch, capsys):
    """The meshes of whole batches, and of the batch that was being written what there is of them."""
    generate, seen = MeshPipeline.generate, []

    def interrupted(self, **options):
        def on_face(mesh, face, codes):
            seen.append({path.name for path in tmp_path.iterdir()})
            if (mesh, face) == (5, 2):
                raise KeyboardInterrupt

        return generate(self, batch_size=4, on_face=on_face, min_faces=4, **options)

    monkeypatch.setattr(MeshPipeline, "generate", interrupted)
    words = ["generate", "--model", str(runs / "m" / "pipeline"), "--seed", "5", "-n", "9", "--max-faces", "4"]
    words += ["--candidates", "1"]
    assert main([*words, "-o", str(tmp_path)]) == 130
    assert seen[-1] == {f"seed-{n}.glb" for n in range(5, 9)}
    assert {path.name for path in tmp_path.iterdir()} == {f"seed-{n}.glb" for n in range(5, 13)}
    shown = capsys.readouterr()
    assert re.findall(r"seed (\d+), [123] faces, cut off by interrupted", shown.out) == ["9", "10", "11", "12"]
    assert shown.err.endswith("meshgpt: interrupted\n")
    assert "0/9 [" in shown.err.split("\r")[1] and "/4 [" not in shown.err  # one bar for all


@pytest.mark.filterwarnings("ignore:.*were cut off")
def test_a_demo_that_is_interrupted_saves_what_there_is(runs, tmp_path, monkeypatch):
    generate = MeshPipeline.generate

    def interrupted(self, **options):
        def on_face(mesh, face, codes):
            if face == 2:
                raise KeyboardInterrupt

        return generate(self, on_face=on_face, min_faces=3, **options)

    monkeypatch.setattr(MeshPipeline, "generate", interrupted)
    assert main(["demo", "--model", str(runs / "m" / "pipeline"), "-n", "2", "-o", str(tmp_path)]) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"seed-0.glb", "seed-1.glb"}


def test_settings_of_a_foreign_transformer_come_from_its_file(tmp_path):
    words = ["import-checkpoint", "transformer", "peer.pt", "-o", str(tmp_path), "--set", "dim=64", "--debug"]
    with pytest.raises(ConfigError, match="a transformer's fields are read from the file"):
        main(words)


def test_a_text_prompt_is_refused_with_the_reason(runs, tmp_path, capsys):
    model = str(runs / "m" / "pipeline")
    assert main(["generate", "a wooden chair", "--model", model, "-o", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert f"ConditionError: '{model}' cannot do 'a wooden chair': this model" in message and "no `text`" in message


def test_a_page_of_nothing_is_an_error(tmp_path):
    empty = Saved(Mesh([[0, 0, 0]], np.zeros((0, 3), dtype=np.int64)), None, "seed 0, 0 faces")
    with pytest.raises(GenerationError, match="none of the meshes has a face"):
        save_page([empty], tmp_path / "page.html", "nothing")


def test_the_demo_leaves_meshes_a_picture_a_page_and_a_summary(runs, tmp_path, capsys):
    words = ["demo", "--model", str(runs / "m" / "pipeline"), "-n", "3", "--max-faces", "5", "-o", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for name in ("contact_sheet.png", "index.html", "summary.txt", "seed-0.glb"):
        assert (tmp_path / name).is_file()
    assert "3 meshes, " in shown and "valid: 3 without degenerate or duplicate faces" in shown
    assert "copies of a training mesh: 0 of 3 have the same faces" in shown
    assert (tmp_path / "summary.txt").read_text() in shown


def test_foreign_weights_are_a_warm_start(tmp_path, capsys):
    torch.save({"model": {"coor_embed.weight": torch.full((128, 8), 2.0)}}, tmp_path / "peer.pt")
    words = ["import-checkpoint", "autoencoder", str(tmp_path / "peer.pt"), "-o", str(tmp_path / "model")]
    assert main([*words, *with_settings("dim_coor_embed=8", *TINY_TOKENIZER)]) == 0
    assert "1 tensors read, 0 left" in capsys.readouterr().out
    again = MeshAutoencoder.from_pretrained(tmp_path / "model")
    assert any(torch.equal(tensor, torch.full((128, 8), 2.0)) for tensor in again.state_dict().values())


def test_a_file_that_could_run_code_is_refused(tmp_path, capsys, tokenizer_folder):
    torch.save({"model": print}, tmp_path / "peer.pt")
    words = ["import-checkpoint", "transformer", str(tmp_path / "peer.pt"), "-o", str(tmp_path / "model")]
    assert main([*words, "--tokenizer", str(tokenizer_folder)]) == 1
    assert "CheckpointError" in capsys.readouterr().err and not (tmp_path / "model").exists()
