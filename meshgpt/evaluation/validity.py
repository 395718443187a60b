"""What kind of meshes a set holds: sizes, and shares of faults."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import no_type_check

import numpy as np

from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import topology_report


@dataclass(frozen=True)
class MeshStatistics:
    """Of a set of meshes; shares of meshes, and of edges where the name says so, are in [0, 1].

    empty: without faces. degenerate, duplicate: with a face that has a vertex twice, with a face twice. nonmanifold:
    with an edge of three or more faces. badly_wound: with two neighbours that run along their edge the same way. The
    shares of edges are means over meshes with an edge; boundary edges have one face.
    """

    meshes: int
    vertices: float
    vertices_median: float
    faces: float
    faces_median: float
    components: float
    empty: float
    degenerate: float
    duplicate: float
    nonmanifold: float
    badly_wound: float
    watertight: float
    boundary_edges: float
    nonmanifold_edges: float
    inconsistent_edges: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@no_type_check
def mesh_statistics(meshes: Sequence[Mesh]) -> MeshStatistics:
    """The figures of a set; all 0 of an empty one."""
    reports = [topology_report(mesh) for mesh in meshes]
    with_edges = [report for report in reports if report.edges]

    def share(fault) -> float:
        return float(np.mean([bool(fault(report)) for report in reports])) if reports else 0.0

    def of_edges(count) -> float:
        return float(np.mean([count(report) / report.edges for report in with_edges])) if with_edges else 0.0

    def figure(function, values: list[int]) -> float:
        return float(function(values)) if values else 0.0

    vertices, faces = [report.vertices for report in reports], [report.faces for report in reports]
    return MeshStatistics(
        meshes=len(reports),
        vertices=figure(np.mean, vertices),
        vertices_median=figure(np.median, vertices),
        faces=figure(np.mean, faces),
        faces_median=figure(np.median, faces),
        components=figure(np.mean, [report.components for report in reports]),
        empty=share(lambda report: report.faces == 0),
        degenerate=share(lambda report: report.degenerate_faces),
        duplicate=share(lambda report: report.duplicate_faces),
        nonmanifold=share(lambda report: report.nonmanifold_edges),
        badly_wound=share(lambda report: report.inconsistent_edges),
        watertight=share(lambda report: report.watertight),
        boundary_edges=of_edges(lambda report: report.boundary_edges),
        nonmanifold_edges=of_edges(lambda report: report.nonmanifold_edges),
        inconsistent_edges=of_edges(lambda report: report.inconsistent_edges),
    )
