"""What all tests share: shape checking on unless the environment says otherwise, one thread, the bundled sample."""

import os

os.environ.setdefault("TYPECHECK", "True")  # before the first import of meshgpt
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches the network

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dataset():
    """The bundled sample: 64 real CC0 meshes of few faces, as a `MeshDataset`."""
    from meshgpt.data.dataset import MeshDataset

    return MeshDataset.bundled("tiny")


@pytest.fixture(scope="session")
def tiny_meshes(tiny_dataset):
    """The 64 meshes of the sample as `list[Mesh]`."""
    meshes = [tiny_dataset.mesh(index) for index in range(len(tiny_dataset))]
    assert len(meshes) == 64, f"the bundled sample should hold 64 meshes, it holds {len(meshes)}"
    return meshes
