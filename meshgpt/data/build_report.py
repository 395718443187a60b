"""What a build took and what it refused: numbers, reasons, and a table to read."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass

from meshgpt.data.pack import MeshRecord


@dataclass(frozen=True)
class Refusal:
    """A file that was left out. kind: one word or two; message: what was wrong with it."""

    path: str
    kind: str
    message: str


@dataclass(frozen=True)
class BuildReport:
    """What a build gave.

    meshes, vertices, faces: in the data set. refused: every mesh file that is not in it. ignored: other files by
    extension. seconds: the last run took. fingerprint: of the files and the config.
    """

    out: str
    meshes: int
    vertices: int
    faces: int
    splits: dict[str, int]
    categories: int
    refused: list[Refusal]
    ignored: dict[str, int]
    seconds: float
    fingerprint: str

    @classmethod
    def of(
        cls,
        out: str,
        records: list[MeshRecord],
        refused: list[Refusal],
        ignored: dict[str, int],
        seconds: float,
        fingerprint: str,
    ) -> "BuildReport":
        return cls(
            out=out,
            meshes=len(records),
            vertices=sum(record.mesh.num_vertices for record in records),
            faces=sum(record.mesh.num_faces for record in records),
            splits=dict(sorted(Counter(record.split for record in records).items())),
            categories=len({record.category for record in records} - {""}),
            refused=refused,
            ignored=ignored,
            seconds=round(seconds, 3),
            fingerprint=fingerprint,
        )

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were refused for each kind of reason, most frequent first."""
        return dict(Counter(refusal.kind for refusal in self.refused).most_common())

    def to_json(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "reasons": self.reasons}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BuildReport":
        values = json.loads(text)
        values.pop("reasons", None)
        return cls(**{**values, "refused": [Refusal(**refusal) for refusal in values["refused"]]})

    def table(self, examples: int = 3) -> str:
        """Lines of text: the totals, then the reasons with a few files each."""
        splits = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        lines = [
            f"{self.meshes} meshes ({splits or 'none'}) of {self.categories} categories, "
            f"{self.vertices} vertices, {self.faces} faces -> {self.out}",
            f"{len(self.refused)} of {self.meshes + len(self.refused)} mesh files refused",
        ]
        for kind, count in self.reasons.items():
            lines.append(f"  {count:6d}  {kind}")
            alike = [refusal for refusal in self.refused if refusal.kind == kind]
            lines += [f"          {refusal.path}: {refusal.message}" for refusal in alike[:examples]]
            lines += [f"          ... and {count - examples} more, see report.json"] if count > examples else []
        if self.ignored:
            others = ", ".join(f"{count} {extension}" for extension, count in self.ignored.items())
            lines.append(f"other files passed over: {others}")
        return "\n".join(lines)
