"""Makes the data sets within the package from a folder of NAME.npz + NAME.jsonl pairs.

    python tools/make_bundled_data.py SOURCE

SOURCE holds tiny, train, val and extra pairs and LICENSES.md. Only CC0 meshes are taken. Writes meshgpt/bundled/tiny,
cc0-lowpoly (meshes of up to 800 faces, with the splits train and val) and cc0-more (those of extra, all for training),
each with its LICENSES.md, and checks that every mesh has the same faces, and the same canonical form on 128 bins, as
the original. `--only NAME` writes one of them.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from meshgpt.data.coding import EXACT_GRIDS
from meshgpt.data.dataset import BUNDLED, MeshDataset
from meshgpt.data.pack import MeshRecord, write_dataset
from meshgpt.mesh.canonical import canonicalize

SETS = {"tiny": ("tiny",), "cc0-lowpoly": ("train", "val"), "cc0-more": ("extra",)}
COUNTS = ("n_vertices", "n_faces", "boundary_edges", "nonmanifold_edges", "components")
LEFT_OUT = (*COUNTS, "heldout_source", "pack", "path")
HEADER = """# Licences and authors of `{name}`

{count} meshes, all CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/): no conditions, credit gladly given.
The licence and author of each mesh stand in its record. Changes made to all of them: node transforms and rest-pose
skins baked, triangulated, coincident vertices merged, degenerate and duplicate faces dropped, materials, texture
coordinates and normals dropped, coordinates rounded to 16 bits.

| source | meshes here | author | licence | repository | commit | evidence for the licence |
|---|---|---|---|---|---|---|
{rows}

## Credits

{credits}
"""
CREDITS = {
    "Quaternius": "Quaternius, https://quaternius.com",
    "Kay Lousberg": "Kay Lousberg (KayKit), https://kaylousberg.com",
    "Kenney": "Kenney, https://kenney.nl",
    "The Base Mesh": "The Base Mesh, https://thebasemesh.com",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--only", choices=SETS)
    given = parser.parse_args()
    source = given.source
    for name in [given.only] if given.only else SETS:
        records = _records(source, SETS[name], 800)
        folder = BUNDLED / name
        write_dataset(records, folder / "meshes.zip", overwrite=True)
        (folder / "LICENSES.md").write_text(_licences(name, records, source / "LICENSES.md"), encoding="utf-8")
        _check(records, MeshDataset.bundled(name))


def _records(source: Path, names: tuple[str, ...], max_faces: int) -> list[MeshRecord]:
    records = []
    for name in names:
        for record in MeshDataset(source / f"{name}.npz").filter(max_faces=max_faces, licences="CC0-1.0"):
            extra = {key: value for key, value in record.extra.items() if key not in LEFT_OUT}
            records.append(replace(record, split=record.split or "train", extra=extra))
    return records


def _licences(name: str, records: list[MeshRecord], original: Path) -> str:
    """The rows of the original table for the sources taken, with the number of meshes taken."""
    counts, rows = Counter(record.source for record in records), []
    for line in original.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in counts:
            rows.append("| " + " | ".join([cells[0], str(counts.pop(cells[0])), *cells[2:]]) + " |")
    if counts:
        raise SystemExit(f"{original} says nothing of {sorted(counts)}")
    authors = {record.author for record in records}
    credits = "\n".join(
        f"- {CREDITS.get(author, author)}"
        for author in [*CREDITS, *sorted(authors - set(CREDITS))]
        if author in authors
    )
    return HEADER.format(name=name, count=len(records), rows="\n".join(rows), credits=credits)


def _check(records: list[MeshRecord], stored: MeshDataset) -> None:
    size = (stored.store.path / "meshes.zip").stat().st_size
    print(f"{stored!r}: {size} bytes, splits {dict(Counter(stored.column('split')))}")
    different = dict.fromkeys(EXACT_GRIDS, 0)
    moved = 0.0
    for record, again in zip(records, stored, strict=True):
        if not np.array_equal(record.mesh.faces, again.mesh.faces) or record.line() != again.line():
            raise SystemExit(f"{record.name} has not come back as it was")
        original, decoded = record.mesh.normalized(), again.mesh.normalized()
        moved = max(moved, float(np.abs(original.vertices - decoded.vertices).max()))
        for bins in EXACT_GRIDS:
            different[bins] += canonicalize(original, bins) != canonicalize(decoded, bins)
    print(f"  largest move {moved:.2e} (normalised); meshes that differ, by number of bins: {different}")


if __name__ == "__main__":
    main()
