"""Meshes as samples of fields on disk: signs and distances, what was refused, and builds that are stopped and go on."""

import json
import pickle

import numpy as np
import pytest

from meshgpt.cli.main import main
from meshgpt.data import fields
from meshgpt.data.dataset import MeshDataset
from meshgpt.data.field_store import FieldDataset
from meshgpt.data.fields import FieldConfig, build_fields, field_sample
from meshgpt.data.pack import MeshRecord, write_dataset
from meshgpt.errors import ConfigError, DataError, DataIndexError, MeshError
from meshgpt.mesh.files import write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.solid import SolidConfig
from tests.solids import ball, bowl, box, missing

SMALL = FieldConfig(surface=200, sharp=50, volume=300, near=100, shard_size=2, solid=SolidConfig(resolution=32))
FLAT = Mesh([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])


@pytest.fixture
def dataset(tmp_path):
    shapes = {"ball": ball(1.0, 2), "box": box([1, 0.5, 0.3]), "flat": FLAT, "bowl": bowl(), "holed": ball(2.0, 2)}
    shapes["holed"] = missing(shapes["holed"], 0.05)
    records = [
        MeshRecord(mesh, name=name, category="round" if name != "box" else "square", split="val" if i % 2 else "train")
        for i, (name, mesh) in enumerate(shapes.items())
    ]
    return MeshDataset(write_dataset(records, tmp_path / "meshes", coordinates="float32"))


def test_labels_are_distances_positive_inside():
    sample = field_sample(ball(7.0, 3), SMALL)
    for queries in (sample.volume, sample.near):
        radii = np.linalg.norm(queries[:, :3], axis=1)
        assert queries.dtype == np.float32 and np.abs(queries[:, 3] - (0.95 - radii)).max() < 0.02
    assert (sample.volume[:, 3] > 0).mean() == pytest.approx(4 / 3 * np.pi * 0.95**3 / 8, abs=0.08)
    assert np.abs(np.linalg.norm(sample.surface[:, :3], axis=1) - 0.95).max() < 0.02
    outwards = (sample.surface[:, :3] * sample.surface[:, 3:6]).sum(axis=1)
    assert (outwards > 0.9).all() and (sample.surface[:, 6] == 0).all()  # no sharp edge: all spread evenly


def test_points_lie_in_the_box_that_meshes_are_normalised_to():
    sample = field_sample(box([30, 20, 10]), SMALL)
    for part in (sample.surface, sample.volume, sample.near):
        assert np.abs(part[:, :3]).max() <= 1.0
    assert np.abs(sample.surface[:, :3]).max() == pytest.approx(0.95, abs=1e-5)
    assert np.abs(sample.volume[:, :3]).max(axis=0).min() > 0.95
    sharp = sample.surface[sample.surface[:, 6] == 1]
    half = np.array([30, 20, 10]) * 0.95 / 30
    assert len(sharp) == 50 and ((np.abs(np.abs(sharp[:, :3]) - half) < 1e-5).sum(axis=1) >= 2).all()
    small = np.abs(sample.near[:50, 3]).mean() < 0.03 < np.abs(sample.near[50:, 3]).mean()
    assert small and sample.record["verdict"]["method"] == "closed"


def test_a_data_set_of_fields_tells_what_became_of_each_mesh(dataset, tmp_path):
    made = build_fields(dataset, tmp_path / "fields", SMALL, workers=0, progress=False)
    assert len(made) == 4 and made.methods == {"closed": 2, "shell": 1, "winding": 1}
    assert [name for name, _ in made.refused] == ["flat"] and "no area" in made.refused[0][1]
    assert made.column("name").tolist() == ["ball", "box", "bowl", "holed"]
    sample, alone = made[1], field_sample(dataset.mesh(1), SMALL, (0, 1))
    assert np.array_equal(sample.near, alone.near) and np.array_equal(sample.surface, alone.surface)
    assert sample.record["name"] == "box" and sample.record["verdict"] == alone.record["verdict"]
    assert len(made.filter(categories="round")) == 3 and len(made.filter(split="val")) == 2
    assert made.filter(methods=["shell"]).column("name").tolist() == ["bowl"]
    assert np.array_equal(made[-1].volume, made.select([3])[0].volume)
    again = pickle.loads(pickle.dumps(made.filter(split="val")))
    assert len(again) == 2 and again.fingerprint == made.filter(split="val").fingerprint != made.fingerprint
    with pytest.raises(DataIndexError, match="index 4 is beyond the 4"):
        made[4]


def test_a_build_that_was_stopped_goes_on_and_gives_the_same_bytes(dataset, tmp_path, monkeypatch):
    whole = build_fields(dataset, tmp_path / "whole", SMALL, workers=0, progress=False)
    made, make = [], fields.make_row

    def stops_at_four(dataset, config, index):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(index)
        return make(dataset, config, index)

    monkeypatch.setattr(fields, "make_row", stops_at_four)
    with pytest.raises(KeyboardInterrupt):
        build_fields(dataset, tmp_path / "stopped", SMALL, workers=0, progress=False)
    assert not (tmp_path / "stopped").exists()
    made.clear()
    monkeypatch.setattr(fields, "make_row", lambda d, c, i: made.append(i) or make(d, c, i))
    build_fields(dataset, tmp_path / "stopped", SMALL, workers=0, progress=False)
    assert made == [2, 3, 4]  # the first shard was there
    for file in sorted(whole.path.iterdir()):
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes()
    made.clear()
    build_fields(dataset, tmp_path / "stopped", SMALL, workers=0, progress=False)
    assert made == [] and not list(tmp_path.glob(".*building"))


@pytest.mark.slow
def test_processes_make_the_same(dataset, tmp_path):
    one = build_fields(dataset[:2], tmp_path / "one", SMALL, workers=0, progress=False)
    two = build_fields(dataset[:2], tmp_path / "two", SMALL, workers=1, progress=False)
    assert (one.path / "shard-00000.npy").read_bytes() == (two.path / "shard-00000.npy").read_bytes()


def test_another_result_is_not_written_over(dataset, tmp_path):
    out = tmp_path / "fields"
    build_fields(dataset[:1], out, SMALL, workers=0, progress=False)
    with pytest.raises(DataError, match="exists already"):
        build_fields(dataset[:1], out, SMALL, seed=1, workers=0, progress=False)
    build_fields(dataset[:1], out, SMALL, seed=1, workers=0, progress=False, overwrite=True)
    assert FieldDataset(out).manifest["config"]["seed"] == 1


def test_damage_is_named(dataset, tmp_path):
    out = build_fields(dataset, tmp_path / "fields", SMALL, workers=0, progress=False).path
    with pytest.raises(DataError, match="no fields here"):
        FieldDataset(tmp_path / "meshes")
    numbers = out / "shard-00001.npy"
    numbers.write_bytes(numbers.read_bytes()[:100])
    with pytest.raises(DataError, match="shard-00001.npy cannot be read"):
        FieldDataset(out)[0]
    lines = out / "shard-00001.jsonl"
    kept = lines.read_text()
    lines.write_text(kept.splitlines(keepends=True)[0])
    with pytest.raises(DataError, match="4 records, not 5"):
        FieldDataset(out)
    lines.write_text("{")
    with pytest.raises(DataError, match="shard-00001.jsonl cannot be read"):
        FieldDataset(out)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "version": 9}))
    with pytest.raises(DataError, match="version 9"):
        FieldDataset(out)


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"surface": 0}, {"sharp": 5000}, {"spreads": ()}, {"spreads": (0.1, 0.0)}, {"seconds_per_mesh": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            FieldConfig(**wrong)
    with pytest.raises(MeshError, match="no area"):
        field_sample(FLAT, SMALL)


def test_the_command_makes_fields_beside_the_meshes(dataset, tmp_path, capsys):
    words = ["--surface", "50", "--sharp", "10", "--volume", "60", "--near", "40", "--workers", "0"]
    assert main(["data", "fields", str(tmp_path / "meshes"), *words, "--max-faces", "20"]) == 0
    said = capsys.readouterr().out
    assert "1 shapes (1 closed)" in said and "1 refused" in said and "flat: " in said
    assert FieldDataset(tmp_path / "meshes").counts == (50, 60, 40)
    words += ["--categories", "square", "-o", str(tmp_path / "square")]
    assert main(["data", "fields", str(tmp_path / "meshes"), *words]) == 0
    assert FieldDataset(tmp_path / "square").column("name").tolist() == ["box"]


def test_a_build_can_make_fields_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fields, "resolve_config", lambda cls, config, keywords: SMALL)
    (tmp_path / "files").mkdir()
    write_mesh(box([1, 0.5, 0.3]), tmp_path / "files" / "box.obj")
    for out, place in (("data", "data/fields"), ("data.zip", "data.fields")):
        words = ["data", "build", str(tmp_path / "files"), "-o", str(tmp_path / out), "--workers", "0", "--fields"]
        assert main(words) == 0
        assert "1 shapes (1 closed)" in capsys.readouterr().out
        assert FieldDataset(tmp_path / place).column("name").tolist() == ["box"]
    assert len(MeshDataset(tmp_path / "data")) == len(FieldDataset(tmp_path / "data")) == 1
