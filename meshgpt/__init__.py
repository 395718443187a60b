"""Autoregressive generation of low-poly meshes: a mesh becomes a sentence, a transformer writes such sentences.

    mesh/ -> data/ -> tokenizers/ -> transformer/ -> pipeline -> mesh/

The names below are loaded when first used, so that `import meshgpt` costs next to nothing. With TYPECHECK=true in the
environment or a `.env`, every shape and type annotation of the package is checked.
"""

import importlib
from typing import TYPE_CHECKING, Any

from meshgpt._typecheck import switch_on

__version__ = "0.1.0"

TYPECHECKED = switch_on(__name__)

if TYPE_CHECKING:
    from meshgpt.data.batch import MeshBatch as MeshBatch
    from meshgpt.mesh.canonical import GridMesh as GridMesh
    from meshgpt.mesh.canonical import canonicalize as canonicalize
    from meshgpt.mesh.mesh import Mesh as Mesh
    from meshgpt.mesh.topology import derive_face_edges_from_faces as derive_face_edges_from_faces

_HOMES = {
    "GridMesh": "mesh.canonical",
    "Mesh": "mesh.mesh",
    "MeshBatch": "data.batch",
    "canonicalize": "mesh.canonical",
    "derive_face_edges_from_faces": "mesh.topology",
}

__all__ = ["TYPECHECKED", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Loads a public name from its module and keeps it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'meshgpt' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"meshgpt.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
