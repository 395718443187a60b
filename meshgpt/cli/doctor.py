"""`meshgpt doctor`: what is installed, what it runs on, what comes with it and where its limits are."""

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from dataclasses import fields

EXTRAS = {
    "classifier-free-guidance-pytorch": "cfg (see docs/install.md)",
    "pillow": "pictures",
    "fast-simplification": "mesh",
    "scikit-image": "fields",
    "libigl": "fields",
    "torch-quickfps": "fps",
    "tensorboard": "tensorboard or train",
    "wandb": "wandb or train",
}


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    doctor = commands.add_parser("doctor", parents=[shared], help="show the environment, versions, models and limits")
    doctor.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    for title, lines in (
        ("machine", machine()),
        ("needs", needs()),
        ("extras", extras()),
        ("settings", settings()),
        ("bundled", bundled()),
        ("limits", limits()),
    ):
        print(title)
        for name, value in lines:
            print(f"  {name:<34}{value}")


def machine() -> Iterator[tuple[str, object]]:
    import torch

    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    yield "threads", torch.get_num_threads()
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "accelerator", "mps" if torch.backends.mps.is_available() else "none, everything runs on the CPU"


def needs() -> Iterator[tuple[str, object]]:
    """Each required package with its version, and what is asked for where that is not met."""
    from packaging.requirements import Requirement

    if _version("meshgpt") is None:
        yield "meshgpt", "not installed, run from its sources: versions cannot be checked"
        return
    for text in importlib.metadata.requires("meshgpt") or []:
        requirement = Requirement(text)
        if requirement.marker is None:
            version = _version(requirement.name)
            met = version is not None and requirement.specifier.contains(version, prereleases=True)
            yield requirement.name, version if met else f"{version or 'missing'}, but {requirement.specifier} is needed"


def extras() -> Iterator[tuple[str, object]]:
    for name, extra in EXTRAS.items():
        yield name, _version(name) or f"not installed; extra: {extra}"


def settings() -> Iterator[tuple[str, object]]:
    from meshgpt import _env

    for name in _env.VARIABLES:
        found = _env.setting(name)
        yield name, f"{found.text} (from {found.source})" if found else "not set"


def bundled() -> Iterator[tuple[str, object]]:
    from meshgpt.checkpoint import bundled_models
    from meshgpt.data.dataset import MeshDataset, bundled_names

    yield "models", ", ".join(bundled_models()) or "none"
    for name in bundled_names():
        dataset = MeshDataset.bundled(name)
        low, high = dataset.face_counts.min(), dataset.face_counts.max()
        yield f"data set '{name}'", f"{len(dataset)} meshes of {low} to {high} faces"


def limits() -> Iterator[tuple[str, object]]:
    from meshgpt.mesh.files import FORMATS, ReadLimits
    from meshgpt.mesh.picture import LARGEST_SIZE
    from meshgpt.mesh.viewer import MOST_MESHES

    yield "mesh files", ", ".join(FORMATS)
    for field in fields(ReadLimits):
        yield f"  {field.name}", f"{getattr(ReadLimits(), field.name):,.0f}"
    yield "meshes on a viewer page", MOST_MESHES
    yield "pixels along a picture", LARGEST_SIZE


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
