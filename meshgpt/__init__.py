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
    from meshgpt.data.augment import Augmentation as Augmentation
    from meshgpt.data.batch import MeshBatch as MeshBatch
    from meshgpt.data.build import build_dataset as build_dataset
    from meshgpt.data.cached import cache_face_edges_for_dataset as cache_face_edges_for_dataset
    from meshgpt.data.cached import cache_text_embeds_for_dataset as cache_text_embeds_for_dataset
    from meshgpt.data.dataset import MeshDataset as MeshDataset
    from meshgpt.data.field_store import FieldDataset as FieldDataset
    from meshgpt.data.fields import build_fields as build_fields
    from meshgpt.data.folder import DatasetFromTransforms as DatasetFromTransforms
    from meshgpt.data.folder import MeshFolder as MeshFolder
    from meshgpt.data.primitives import PrimitiveDataset as PrimitiveDataset
    from meshgpt.errors import MeshGPTError as MeshGPTError
    from meshgpt.mesh.canonical import GridMesh as GridMesh
    from meshgpt.mesh.canonical import canonicalize as canonicalize
    from meshgpt.mesh.clouds import CloudAugmentation as CloudAugmentation
    from meshgpt.mesh.clouds import PointCloud as PointCloud
    from meshgpt.mesh.clouds import read_points as read_points
    from meshgpt.mesh.clouds import write_points as write_points
    from meshgpt.mesh.files import read_mesh as read_mesh
    from meshgpt.mesh.files import write_mesh as write_mesh
    from meshgpt.mesh.mesh import Mesh as Mesh
    from meshgpt.mesh.picture import contact_sheet as contact_sheet
    from meshgpt.mesh.picture import render as render
    from meshgpt.mesh.picture import save_png as save_png
    from meshgpt.mesh.solid import solid as solid
    from meshgpt.mesh.surface import SurfaceReport as SurfaceReport
    from meshgpt.mesh.surface import compare_surfaces as compare_surfaces
    from meshgpt.mesh.surface import nearest_mesh as nearest_mesh
    from meshgpt.mesh.surface import sample_surface as sample_surface
    from meshgpt.mesh.topology import derive_face_edges_from_faces as derive_face_edges_from_faces
    from meshgpt.mesh.topology import orient as orient
    from meshgpt.mesh.topology import topology_report as topology_report
    from meshgpt.mesh.viewer import write_viewer as write_viewer
    from meshgpt.pipeline import MeshPipeline as MeshPipeline
    from meshgpt.pipeline import MeshPipelineConfig as MeshPipelineConfig
    from meshgpt.retopology import Retopology as Retopology
    from meshgpt.retopology import retopologize as retopologize
    from meshgpt.shapes.diffusion.process import DiffusionConfig as DiffusionConfig
    from meshgpt.shapes.latent_diffusion import LatentDiffusion as LatentDiffusion
    from meshgpt.shapes.latent_diffusion import LatentDiffusionConfig as LatentDiffusionConfig
    from meshgpt.shapes.occupancy import OccupancyField as OccupancyField
    from meshgpt.shapes.occupancy import OccupancyNetwork as OccupancyNetwork
    from meshgpt.shapes.pipeline import ShapePipeline as ShapePipeline
    from meshgpt.shapes.pipeline import ShapePipelineConfig as ShapePipelineConfig
    from meshgpt.shapes.vecset import VectorSetAutoencoder as VectorSetAutoencoder
    from meshgpt.text.captions import CaptionWriter as CaptionWriter
    from meshgpt.text.encoder import text_encoder as text_encoder
    from meshgpt.tokenizers.autoencoder import MeshAutoencoder as MeshAutoencoder
    from meshgpt.tokenizers.autoencoder_config import MeshAutoencoderConfig as MeshAutoencoderConfig
    from meshgpt.tokenizers.coordinates import CoordinateTokenizer as CoordinateTokenizer
    from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer as HalfEdgeTokenizer
    from meshgpt.tokenizers.patch import PatchTokenizer as PatchTokenizer
    from meshgpt.tokenizers.strip import StripTokenizer as StripTokenizer
    from meshgpt.tokenizers.tokenizer import MeshTokenizer as MeshTokenizer
    from meshgpt.tokenizers.vocabulary import MeshVocabulary as MeshVocabulary
    from meshgpt.training.latent_trainer import LatentDiffusionTrainer as LatentDiffusionTrainer
    from meshgpt.training.mesh_trainers import MeshAutoencoderTrainer as MeshAutoencoderTrainer
    from meshgpt.training.mesh_trainers import MeshTransformerTrainer as MeshTransformerTrainer
    from meshgpt.training.settings import TrainerConfig as TrainerConfig
    from meshgpt.training.tuning import TuningTrainer as TuningTrainer
    from meshgpt.transformer.config import MeshTransformerConfig as MeshTransformerConfig
    from meshgpt.transformer.infill import Infill as Infill
    from meshgpt.transformer.sampling import Sampling as Sampling
    from meshgpt.transformer.transformer import MeshTransformer as MeshTransformer

_HOMES = {
    "Augmentation": "data.augment",
    "CaptionWriter": "text.captions",
    "CloudAugmentation": "mesh.clouds",
    "CoordinateTokenizer": "tokenizers.coordinates",
    "DatasetFromTransforms": "data.folder",
    "DiffusionConfig": "shapes.diffusion.process",
    "FieldDataset": "data.field_store",
    "GridMesh": "mesh.canonical",
    "HalfEdgeTokenizer": "tokenizers.half_edge",
    "Infill": "transformer.infill",
    "LatentDiffusion": "shapes.latent_diffusion",
    "LatentDiffusionConfig": "shapes.latent_diffusion",
    "LatentDiffusionTrainer": "training.latent_trainer",
    "Mesh": "mesh.mesh",
    "MeshAutoencoder": "tokenizers.autoencoder",
    "MeshAutoencoderConfig": "tokenizers.autoencoder_config",
    "MeshAutoencoderTrainer": "training.mesh_trainers",
    "MeshBatch": "data.batch",
    "MeshDataset": "data.dataset",
    "MeshFolder": "data.folder",
    "MeshGPTError": "errors",
    "MeshPipeline": "pipeline",
    "MeshPipelineConfig": "pipeline",
    "MeshTokenizer": "tokenizers.tokenizer",
    "MeshTransformer": "transformer.transformer",
    "MeshTransformerConfig": "transformer.config",
    "MeshTransformerTrainer": "training.mesh_trainers",
    "MeshVocabulary": "tokenizers.vocabulary",
    "OccupancyField": "shapes.occupancy",
    "OccupancyNetwork": "shapes.occupancy",
    "PatchTokenizer": "tokenizers.patch",
    "PointCloud": "mesh.clouds",
    "PrimitiveDataset": "data.primitives",
    "Retopology": "retopology",
    "Sampling": "transformer.sampling",
    "ShapePipeline": "shapes.pipeline",
    "ShapePipelineConfig": "shapes.pipeline",
    "StripTokenizer": "tokenizers.strip",
    "SurfaceReport": "mesh.surface",
    "TrainerConfig": "training.settings",
    "TuningTrainer": "training.tuning",
    "VectorSetAutoencoder": "shapes.vecset",
    "build_dataset": "data.build",
    "build_fields": "data.fields",
    "cache_face_edges_for_dataset": "data.cached",
    "cache_text_embeds_for_dataset": "data.cached",
    "canonicalize": "mesh.canonical",
    "compare_surfaces": "mesh.surface",
    "contact_sheet": "mesh.picture",
    "derive_face_edges_from_faces": "mesh.topology",
    "nearest_mesh": "mesh.surface",
    "orient": "mesh.topology",
    "read_mesh": "mesh.files",
    "read_points": "mesh.clouds",
    "render": "mesh.picture",
    "retopologize": "retopology",
    "sample_surface": "mesh.surface",
    "save_png": "mesh.picture",
    "solid": "mesh.solid",
    "text_encoder": "text.encoder",
    "topology_report": "mesh.topology",
    "write_mesh": "mesh.files",
    "write_points": "mesh.clouds",
    "write_viewer": "mesh.viewer",
}

__all__ = ["TYPECHECKED", "__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Loads a public name from its module and keeps it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'meshgpt' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"meshgpt.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
