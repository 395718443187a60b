"""Per tokenizer: meshes accepted, exact, winding exact; tokens, bits and microseconds a face. Prints Markdown tables.

    python benchmarks/tokenizer_report.py                                # the lossless ones, val of the bundled data
    python benchmarks/tokenizer_report.py --data DATA --split all        # another data set
    python benchmarks/tokenizer_report.py --tokenizers patches lowpoly   # some of them, or a learned one by its name

As `meshgpt tokenize --report DATA`, for all meshes and for those of at most 800 faces.
"""

import argparse

import torch

from meshgpt.cli.inputs import LOSSLESS, named_tokenizer
from meshgpt.data.dataset import MeshDataset
from meshgpt.evaluation.tokenizer_report import table, tokenizer_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cc0-lowpoly")
    parser.add_argument("--split", default="val", help="'all' for all of them")
    parser.add_argument("--tokenizers", nargs="+", default=list(LOSSLESS))
    parser.add_argument("--every", type=int, default=1, help="take one mesh of so many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = MeshDataset(options.data)
    data = data if options.split == "all" else data.split(options.split)
    meshes = [data.mesh(index) for index in range(0, len(data), options.every)]
    for title, some in (("All", meshes), ("At most 800 faces", [mesh for mesh in meshes if mesh.num_faces <= 800])):
        print(f"\n{title}: {len(some)} meshes\n")
        print(table([(name, tokenizer_report(named_tokenizer(name), some)) for name in options.tokenizers]))


if __name__ == "__main__":
    main()
