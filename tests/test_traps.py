"""What goes wrong in public code for fields (docs/field-traps.md): every trap has a test, and those without another
place are here."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_toys import process_of
from field_toys import small_autoencoder

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.field_store import FieldDataset
from meshgpt.data.fields import FieldConfig, build_fields
from meshgpt.data.pack import MeshRecord, write_dataset
from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.mesh.inside import signed_distances
from meshgpt.shapes.occupancy import OccupancyNetwork
from meshgpt.shapes.vecset import PRESETS, VectorSetConfig, vector_set_preset
from meshgpt.training.field_examples import FieldBatch, FieldExamples, FieldView
from meshgpt.training.field_objectives import VectorSetObjective
from tests.solids import box

ROOT = Path(__file__).resolve().parent.parent
ROWS = re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", (ROOT / "docs" / "field-traps.md").read_text(encoding="utf-8"), re.M)
SMALL = FieldConfig(surface=64, sharp=16, volume=128, near=128)


def boxes(folder, *halves):
    """A data set of boxes."""
    records = [MeshRecord(box(half), name=str(number), category="box") for number, half in enumerate(halves)]
    return MeshDataset(write_dataset(records, folder, coordinates="float32"))


def test_all_twenty_are_in_the_table():
    assert [int(number) for number, _ in ROWS] == list(range(1, 21))
    assert [int(number) for number, where in ROWS if "::" not in where] == [10]  # there are no sparse voxels yet


@pytest.mark.parametrize(("number", "where"), ROWS, ids=[number for number, _ in ROWS])
def test_the_tests_in_the_table_exist(number, where):
    for file, name in re.findall(r"`([a-z_]+\.py)::([a-z_0-9]+)`", where):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"trap {number}: {file}::{name}"


def test_every_way_of_naming_the_data_gives_the_same_shapes(tmp_path):
    data = boxes(tmp_path / "set", [1, 2, 3], [3, 1, 1], [1, 1, 1])
    made = build_fields(data, tmp_path / "set" / "fields", SMALL, workers=0, progress=False)
    shutil.copytree(tmp_path / "set" / "fields", tmp_path / "copy")
    ways = [FieldDataset(tmp_path / "set"), FieldDataset(str(tmp_path / "set" / "fields")), made.select([0, 1, 2])]
    ways += [FieldDataset(tmp_path / "copy"), made.filter(methods=("closed",))]
    for way in ways:
        assert len(way) == 3 and way.fingerprint == made.fingerprint
        assert all(np.array_equal(way[i].near, made[i].near) for i in range(3))


def test_a_schedule_that_runs_backwards_is_converted_by_its_ratio():
    sigmas = torch.linspace(0.99, 0.01, 12, dtype=torch.float64)  # of noise, which others have from 1 down to 0
    path = process_of("linear").path
    times = path.time_of(sigmas / (1 - sigmas))
    assert torch.allclose(times, 1 - sigmas) and (times.diff() > 0).all()
    assert torch.allclose(path.at(times).sigma, sigmas) and (path.noise_time, path.data_time) == (0, 1)
    data, noise = torch.randn(12, 3), torch.randn(12, 3)
    mixed = process_of("linear").noised(data, noise, times)
    assert torch.allclose(mixed, (1 - sigmas[:, None]).float() * data + sigmas[:, None].float() * noise, atol=1e-6)


def test_small_models_look_with_several_heads_and_those_of_the_paper_with_one():
    for name, config in PRESETS.items():
        assert (config.cross_heads == 1) == name.startswith(("kl_", "ae_")), name
    tiny = vector_set_preset("tiny")
    assert (tiny.cross_heads, tiny.dim // tiny.cross_heads, tiny.num_frequencies, tiny.depth) == (3, 32, 8, 3)


def test_points_near_the_surface_weigh_a_tenth():
    of_the_paper = {config.near_weight for name, config in PRESETS.items() if name.startswith(("kl_", "ae_"))}
    assert VectorSetConfig().near_weight == 0.1 and of_the_paper == {0.1}
    examples = FieldExamples(
        PrimitiveDataset(2, surface=32, volume=64, near=64), FieldView(cloud=32, volume=64, near=64)
    )
    batch, model = FieldBatch.of([examples[0], examples[1]]), small_autoencoder(kl_weight=0.0)
    found = VectorSetObjective().losses(model, batch)
    assert torch.allclose(found.loss, found.metrics["volume"] + 0.1 * found.metrics["near"])


def test_stored_points_lie_on_the_side_that_their_distance_says(tmp_path):
    data = boxes(tmp_path / "meshes", [2, 1, 1])
    config = SMALL.replace(near=4000, spreads=(1e-4,))
    [stored] = build_fields(data, tmp_path / "f", config, workers=0, progress=False)
    for part in (stored.surface, stored.volume, stored.near):
        assert part.dtype == np.float32
    places, told = stored.near[:, :3].astype(np.float64), stored.near[:, 3]
    exact = signed_distances(data.mesh(0).normalized(), places)
    assert np.abs(told).max() < 1e-3 and np.abs(told - exact).max() < 1e-6
    sure = np.abs(exact) > 1e-6
    assert (np.sign(told) == np.sign(exact))[sure].all()
    halved = signed_distances(data.mesh(0).normalized(), places.astype(np.float16).astype(np.float64))
    assert (np.sign(halved) != np.sign(exact))[sure].mean() > 0.05  # what 16 bits would have done


def test_a_field_does_not_depend_on_its_batch():
    shapes = PrimitiveDataset(3, surface=64, volume=32, near=8)
    clouds = torch.from_numpy(np.stack([shapes[i].surface for i in range(3)]))
    points = torch.from_numpy(np.stack([shapes[i].volume[:, :3] for i in range(3)]))
    torch.manual_seed(0)
    network = OccupancyNetwork(dim=16, dim_condition=16, dim_encoder=16, num_blocks=2)
    network.train()
    for _ in range(3):  # its norms have seen batches
        network(clouds, points, torch.ones(points.shape[:2]))
    for model in (small_autoencoder(), network.eval()):
        with torch.no_grad():
            together = model.logits(model.encode(clouds), points)
            alone = torch.cat([model.logits(model.encode(clouds[[i]]), points[[i]]) for i in range(3)])
        assert torch.allclose(together, alone, atol=1e-5)


def test_one_thread_is_used():
    assert torch.get_num_threads() == 1
    names = ["examples/11_shape_as_a_field.py"]
    names += [f"benchmarks/{name}.py" for name in ("vector_set", "latent_generation", "occupancy", "diffusion")]
    for name in names:
        assert "torch.set_num_threads(" in (ROOT / name).read_text(encoding="utf-8"), name
