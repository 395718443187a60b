"""What papers print, to stand beside our figures: the definitions are the same, shapes and pictures are others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Figures of one method on one set of shapes; `source` says where they are printed. None where nothing is.

    coverage and one_nn in per cent, mmd times 1000, jsd times 100, as in our tables. FID and KID of other pictures
    by another network are no figures to stand beside ours, and left out.
    """

    method: str
    shapes: str
    points: int
    source: str
    mmd: float | None = None
    coverage: float | None = None
    one_nn: float | None = None
    jsd: float | None = None
    vertices: int | None = None
    faces: int | None = None

    @property
    def normalise(self) -> str:
        """Where the clouds of the paper lie: those of 1,024 points are scaled into the unit sphere."""
        return "sphere" if self.points == 1024 else "box"


_MESHGPT = "MeshGPT, arXiv:2311.15475, Table 1"
_MESHCRAFT = "MeshCraft, arXiv:2503.23022, Table 2"
GENERATION = (
    Published("PolyGen", "ShapeNet chairs", 2048, _MESHGPT, 4.41, 31.22, 93.56, None, 248, 603),
    Published("GET3D, decimated", "ShapeNet chairs", 2048, _MESHGPT, 3.57, 38.75, 84.07, None, 199, 399),
    Published("MeshGPT", "ShapeNet chairs", 2048, _MESHGPT, 3.29, 43.28, 75.51, None, 125, 228),
    Published("MeshGPT", "ShapeNet tables", 2048, _MESHGPT, 2.36, 45.68, 72.88, None, 99, 187),
    Published("MeshGPT", "ShapeNet benches", 2048, _MESHGPT, 1.44, 55.23, 68.24, None, 159, 291),
    Published("MeshGPT", "ShapeNet lamps", 2048, _MESHGPT, 3.94, 53.88, 65.73, None, 150, 288),
    Published("MeshGPT", "ShapeNet chairs", 1024, _MESHCRAFT, 10.34, 45.98, 60.06, 11.67),
    Published("PivotMesh", "ShapeNet chairs", 1024, _MESHCRAFT, 10.00, 47.99, 60.06, 13.51),
    Published("MeshXL", "ShapeNet chairs", 1024, _MESHCRAFT, 10.17, 49.43, 56.90, 11.37),
    Published("MeshCraft", "ShapeNet chairs", 1024, _MESHCRAFT, 9.61, 51.44, 54.31, 11.03),
    Published("MeshCraft", "ShapeNet tables", 1024, _MESHCRAFT, 8.74, 55.42, 54.26, 8.73),
)


# Triangle accuracy in per cent, L2 times 100.
TOKENIZERS = (
    ("MeshGPT", "ShapeNet", 98.49, None, "MeshGPT, arXiv:2311.15475, Table 4"),
    ("MeshGPT (another implementation)", "ShapeNet", 99.99, 0.00, "MeshCraft, arXiv:2503.23022, Tables 1 and 3"),
    ("PivotMesh", "ShapeNet", 98.88, 0.86, "MeshCraft, arXiv:2503.23022, Tables 1 and 3"),
    ("residual VQ", "Objaverse", 65.12, 8.63, "MeshCraft, arXiv:2503.23022, Tables 1 and 3"),
    ("MeshCraft, KL of 8", "Objaverse", 99.66, 0.12, "MeshCraft, arXiv:2503.23022, Tables 1 and 3"),
)
