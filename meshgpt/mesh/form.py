"""The form of a mesh, measured once: how closed it is, how symmetric, of how many parts; and how odd that is."""

from dataclasses import dataclass

import numpy as np

from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.symmetry import mirrored_share
from meshgpt.mesh.topology import loose_share, topology_report

# So many nats a mesh is worse than a closed one in one piece that is its own mirror image; see `doubt`.
OPENNESS = 10.0  # for open edges alone
LOPSIDEDNESS = 2.0  # for no symmetry at all
PIECES = 0.3  # for each e-fold of parts
LOOSENESS = 10.0  # for a surface of which all hung in the air


@dataclass(frozen=True)
class Form:
    """openness: the share of edges that have one face, or more than two. boundary: of those with one. symmetry: of
    vertices with a mirror image (`mirrored_share`). parts: how many, 0 for a mesh without faces. loose: the share of
    the surface that hangs in the air (`loose_share`).
    """

    openness: float = 0.0
    boundary: float = 0.0
    symmetry: float = 1.0
    parts: int = 1
    loose: float = 0.0

    @classmethod
    def of(cls, mesh: Mesh) -> "Form":
        report = topology_report(mesh)
        edges = max(report.edges, 1)
        openness = (report.boundary_edges + report.nonmanifold_edges) / edges
        loose = loose_share(mesh) if report.components > 1 else 0.0
        return cls(openness, report.boundary_edges / edges, mirrored_share(mesh), report.components, loose)

    @property
    def doubt(self) -> float:
        """See the function of this name."""
        if self.parts == 0:
            return np.inf
        apart = PIECES * float(np.log(self.parts)) + LOOSENESS * self.loose
        return OPENNESS * self.openness + LOPSIDEDNESS * (1 - self.symmetry) + apart


def doubt(mesh: Mesh) -> float:
    """How little a mesh looks made by hand, in nats: for open edges, parts, parts in the air, and want of symmetry.

    With these weights real low-poly meshes and written ones are told apart nearly as well as by logistic regression on
    the same figures (`benchmarks/plausibility.py`); open edges weigh more than they would, as holes can be seen.
    """
    return Form.of(mesh).doubt
