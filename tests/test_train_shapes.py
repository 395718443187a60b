"""`meshgpt train shapes-autoencoder` and `shapes-denoiser`: every condition and objective is reached, runs resume, the
best is kept, what comes out generates, and what cannot be is one line."""

import json
import warnings

import numpy as np
import pytest
import torch
from conditioned_toys import knows_letters as knows_letters
from field_toys import balls as balls
from field_toys import small_autoencoder, small_prior

from meshgpt.cli.main import main
from meshgpt.data.dataset import MeshDataset
from meshgpt.data.field_store import FieldDataset
from meshgpt.data.fields import FieldConfig, build_fields
from meshgpt.data.pack import MeshRecord, write_dataset
from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.errors import DataError, NonFiniteLossError, TrainingError
from meshgpt.mesh.files import read_mesh
from meshgpt.shapes.pipeline import ShapePipeline
from meshgpt.training.asked_latents import asked_latents, latents_of_shapes
from meshgpt.training.field_examples import FieldBatch, FieldExamples, FieldView
from meshgpt.training.field_trainers import VectorSetTrainer
from meshgpt.training.latent_trainer import LatentDiffusionTrainer, LatentExamples
from tests.solids import box

pytestmark = pytest.mark.usefixtures("knows_letters")
TWO_STEPS = ("num_train_steps=2", "batch_size=4", "val_every=1", "checkpoint_every=1", "progress=false", "log_every=1")
SMALL = ("dim=16", "num_latents=6", "dim_latent=3", "depth=1", "heads=2", "dim_head=8", "cross_heads=2")
SHAPES = ("view.volume=32", "view.near=16")
LATENTS = ("dim=16", "depth=1", "attn_heads=2", "attn_dim_head=8", "num_point_latents=4", "point_encoder_depth=1")
LETTERS = ('text_condition_model_types=["letters"]', "dim_text=3")
QUIET = pytest.mark.filterwarnings("ignore:.*the model will not learn")


def with_settings(*settings):
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Ten boxes as fields, with captions; without a split."""
    folder = tmp_path_factory.mktemp("fields")
    sizes = np.random.default_rng(0).uniform(0.3, 1.0, (10, 3))
    records = [
        MeshRecord(box(size), name=f"box {i}", category=("crate", "block")[i % 2], caption=f"a box of {size[1]:.1f}")
        for i, size in enumerate(sizes)
    ]
    data = MeshDataset(write_dataset(records, folder / "meshes", coordinates="float32"))
    config = FieldConfig(surface=96, sharp=24, volume=64, near=64)
    return str(build_fields(data, folder / "fields", config, workers=0, progress=False).path)


@pytest.fixture(scope="module")
def autoencoder(fields, tmp_path_factory):
    """The folder of a run."""
    out = tmp_path_factory.mktemp("runs") / "a"
    words = ["train", "shapes-autoencoder", fields, "--out", str(out), "--preset", "tiny", "--cloud", "48"]
    assert main([*words, *with_settings(*TWO_STEPS, *SMALL, *SHAPES)]) == 0
    return out


def denoiser_words(fields, autoencoder, out, *words):
    words = ["train", "shapes-denoiser", fields, "--autoencoder", str(autoencoder), "--out", str(out), *words]
    words += ["--preset", "tiny", "--cloud", "48", "--variants", "2"]
    return [*words, *with_settings(*TWO_STEPS, *LATENTS)]


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_an_autoencoder_learns_and_its_best_is_kept(fields, autoencoder):
    assert {"config.json", "model.safetensors", "metrics.jsonl"} <= {path.name for path in autoencoder.iterdir()}
    assert {"val_iou", "volume"} <= {name for line in lines_of(autoencoder) for name in line}
    score = json.loads((autoencoder / "best" / "score.json").read_text())
    assert score["step"] in (1, 2) and 0 <= score["iou"] <= 1
    pipe = ShapePipeline.from_pretrained(autoencoder)
    assert pipe.autoencoder.config.dim == 16 and pipe.prior is None


@QUIET
@pytest.mark.parametrize("objective", ["flow", "edm", "v"])
def test_a_denoiser_learns_and_what_comes_out_generates(balls, fields, autoencoder, tmp_path, objective, capsys):
    out = tmp_path / "d"
    words = denoiser_words(fields, autoencoder, out, "--condition", "category", "--objective", objective)
    assert main(words) == 0
    assert (
        f"next: meshgpt shapes generate --category block --model {out / 'pipeline'} --view" in capsys.readouterr().out
    )
    pipe = ShapePipeline.from_pretrained(out / "pipeline")
    assert pipe.categories == ("block", "crate") and pipe.config.num_points == 48
    assert pipe.prior is not None and int(pipe.prior.num_fitted) == 18  # two encodings of each but the one held out
    assert pipe.prior.config.diffusion.parameterization == {"flow": "velocity"}.get(objective, objective)
    assert {"explained", "val_error"} <= {name for line in lines_of(out) for name in line}
    assert "loss" in json.loads((out / "best" / "score.json").read_text())
    words = [
        "--category",
        "crate",
        "-n",
        "1",
        "--seed",
        "0",
        "--resolution",
        "16",
        "--steps",
        "3",
        "-o",
        str(out / "g"),
    ]
    assert main(["shapes", "generate", "--model", str(out / "pipeline"), *words]) == 0
    assert read_mesh(out / "g" / "seed-0.glb").num_faces > 100


def test_texts_and_points_are_reached(balls, fields, autoencoder, tmp_path, capsys):
    out = tmp_path / "d"
    words = denoiser_words(fields, autoencoder, out, "--condition", "text", "points")
    assert main([*words, *with_settings(*LETTERS, 'kind="token"', "diffusion.times=logit_normal")]) == 0
    assert 'next: meshgpt shapes generate "a crate" --points scan.ply --model' in capsys.readouterr().out
    pipe = ShapePipeline.from_pretrained(out / "pipeline")
    assert pipe.prior is not None and pipe.prior.config.kinds == ("text", "points")
    assert pipe.prior.config.kind == "token" and pipe.prior.config.diffusion.times == "logit_normal"
    assert pipe.generate("a tall box", points=box([1, 2, 1]), seed=0, resolution=16, num_steps=2)[0].mesh.num_faces


def test_runs_resume_bit_for_bit(fields, autoencoder, tmp_path):
    weights = {}
    for name, stops in (("whole", ()), ("stopped", ("num_train_steps=1", "scheduler=constant"))):
        out = tmp_path / name
        words = denoiser_words(fields, autoencoder, out, "--condition", "category")
        words += with_settings("scheduler=constant")
        if stops:
            assert main([*words, *with_settings(*stops)]) == 0
            assert main([*words]) == 1  # there are checkpoints: say --resume
        assert main([*words, "--resume"] if stops else words) == 0
        weights[name] = ShapePipeline.from_pretrained(out / "pipeline").prior.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(weights["whole"][name], value) for name, value in weights["stopped"].items())


def test_latents_are_kept_and_taken_again_only_where_they_fit(fields, tmp_path, monkeypatch):
    shapes = FieldExamples(FieldDataset(fields), FieldView(cloud=32, volume=1, near=0, mirror=True))
    model, path = small_autoencoder(), tmp_path / "l.safetensors"
    latents = latents_of_shapes(model, shapes, 2, path)
    assert latents.shape == (20, 6, 3) and not torch.equal(latents[:10], latents[10:])
    with monkeypatch.context() as patch:
        patch.setattr("meshgpt.training.asked_latents.encoded", None)
        assert torch.equal(latents_of_shapes(model, shapes, 2, path), latents)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert not torch.equal(latents_of_shapes(model, shapes, 2, path), latents)
    with pytest.raises(DataError, match="variants = 0"):
        latents_of_shapes(model, shapes, 0)
    with pytest.raises(DataError, match="96: ask for fewer"):
        latents_of_shapes(model, FieldExamples(FieldDataset(fields), FieldView(cloud=97, volume=1, near=0)))


def test_what_is_asked_is_of_the_very_shape_and_depends_on_seed_epoch_and_row_alone(fields, tmp_path):
    asked = {"condition_on_points": True, "num_point_latents": 4, "point_encoder_depth": 1}
    model = small_prior(categories=("block", "crate"), **asked)
    shapes = FieldExamples(FieldDataset(fields), FieldView(cloud=32, volume=1, near=0, mirror=True))
    latents = torch.randn(20, 6, 3)
    told = asked_latents(model, latents, shapes, tmp_path)
    first, again, later = told.get(13, 0), told.get(13, 0), told.get(13, 1)
    assert torch.equal(first.latents, latents[13:14]) and first.conditions is not None and later.conditions is not None
    assert again.conditions is not None and torch.equal(first.conditions.points, again.conditions.points)
    assert first.conditions.points.shape != later.conditions.points.shape or not torch.equal(
        first.conditions.points, later.conditions.points
    )
    assert int(first.conditions.categories) == 0  # box 3 is a block
    exact = asked_latents(model, latents, shapes, tmp_path, exact=True).get(13, 5).conditions
    assert exact is not None and np.allclose(exact.points[0, :, :3], shapes.get(3, 1).sample.surface[:, :3])
    assert (
        told.name(13) == shapes.name(3)
        and told.fingerprint != asked_latents(model, latents + 1, shapes, tmp_path).fingerprint
    )
    with pytest.raises(DataError, match="no whole number of times"):
        asked_latents(model, latents[:15], shapes, tmp_path)
    assert type(asked_latents(small_prior(), latents, shapes, tmp_path)) is LatentExamples


@pytest.mark.parametrize(
    ("part", "words", "says"),
    [
        ("autoencoder", ["--preset", "tini"], "did you mean 'tiny'"),
        ("autoencoder", ["--cloud", "1000"], "1000 surface points are wanted of shapes that have 96"),
        ("autoencoder", ["--categories", "nosuch"], "0 shapes are as wanted"),
        ("autoencoder", ["--set", "dpth=3"], "did you mean 'depth'"),
        ("autoencoder", ["--set", "checkpoint_folder=x"], "named by --out"),
        ("autoencoder", ["--resume"], "no checkpoint to resume from"),
        ("denoiser", ["--preset", "tini"], "no denoiser preset is called 'tini': did you mean 'tiny'"),
        ("denoiser", ["--autoencoder", "absent"], "there is no folder and no bundled model 'absent'"),
        ("denoiser", ["--set", "diffusion.path=straight"], "path must be one of"),
        ("denoiser", ["--variants", "0"], "variants = 0"),
    ],
)
def test_a_training_that_cannot_be_is_one_line(fields, autoencoder, tmp_path, capsys, part, words, says):
    given = ["train", f"shapes-{part}", fields, "--out", str(tmp_path), "--preset", "tiny", "--cloud", "48"]
    own = SMALL + SHAPES if part == "autoencoder" else LATENTS
    given += ["--autoencoder", str(autoencoder)] if part == "denoiser" else []
    assert main([*given, *with_settings(*TWO_STEPS, *own), *words]) == 1
    message = capsys.readouterr().err
    assert says in message and "Traceback" not in message


def test_other_folders_are_named(fields, tmp_path, capsys):
    small_prior().save_pretrained(tmp_path / "prior")
    assert main(denoiser_words(fields, tmp_path / "prior", tmp_path / "d")) == 1
    assert "holds a LatentDiffusion, not a VectorSetAutoencoder: train one with" in capsys.readouterr().err
    assert main(denoiser_words(str(tmp_path / "nowhere"), tmp_path / "prior", tmp_path / "d")) == 1
    assert main(["train", "shapes-autoencoder", str(tmp_path / "prior"), "--out", str(tmp_path / "a")]) == 1
    assert "no fields here" in capsys.readouterr().err


def test_made_shapes_need_no_files(tmp_path):
    words = ["train", "shapes-autoencoder", "primitives", "--categories", "box", "--out", str(tmp_path / "a")]
    words += ["--preset", "tiny", "--cloud", "32", "--no-val", "--no-augment"]
    assert main([*words, *with_settings(*TWO_STEPS, *SMALL, *SHAPES, "target=distance")]) == 0
    assert not (tmp_path / "a" / "best").exists()


# what is not finite, and what does not fit


@pytest.mark.parametrize("part", ["autoencoder", "denoiser"])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_state_saved(tmp_path, part):
    shapes, settings = PrimitiveDataset(4, surface=32, volume=32, near=16), {"num_train_steps": 3, "batch_size": 4}
    settings |= {"progress": False, "checkpoint_folder": str(tmp_path), "log_every": 1}
    if part == "autoencoder":
        model = small_autoencoder()
        trainer = VectorSetTrainer(model, shapes, view=FieldView(cloud=32, volume=32, near=16), **settings)
    else:
        model = small_prior()
        trainer = LatentDiffusionTrainer(model, torch.randn(4, 6, 3), **settings)
    losses = trainer.objective.losses

    def poisoned(model, batch):
        found = losses(model, batch)
        return found if trainer.step < 1 else type(found)(found.loss * float("nan"), found.metrics)

    trainer.objective.losses = poisoned
    with pytest.raises(NonFiniteLossError, match="step 1: the loss is nan in batch 1.*state before this step is in"):
        trainer()
    assert (tmp_path / "checkpoints" / "step-00000001").is_dir()


def test_shapes_of_different_counts_are_no_batch():
    shapes = [PrimitiveDataset(1, surface=count, volume=8, near=8)[0] for count in (16, 17)]
    plain = FieldView(cloud=16, volume=8, near=8)
    examples = [FieldExamples([shape], plain.replace(cloud=len(shape.surface)))[0] for shape in shapes]
    with pytest.raises(DataError, match="equally many points"):
        FieldBatch.of(examples)


def test_latents_that_want_a_gradient_or_are_given_twice(tmp_path):
    latents = torch.randn(4, 6, 3, requires_grad=True)
    examples = LatentExamples(latents)
    assert not examples.dataset.requires_grad and examples.dataset.device.type == "cpu" and examples.fingerprint
    with pytest.raises(DataError, match="leave conditions out"):
        LatentDiffusionTrainer(small_prior(), examples, object(), checkpoint_folder=str(tmp_path))
    with pytest.raises(TrainingError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = LatentDiffusionTrainer(small_prior(), examples, checkpoint_folder=str(tmp_path), batch_size=4)
        trainer.validate()
