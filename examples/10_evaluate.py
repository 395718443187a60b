"""What a pipeline writes, measured beside real meshes, and a page to look at it; `meshgpt evaluate` does the same.

python examples/10_evaluate.py --model lowpoly --count 12 --max-faces 200
"""

import argparse
from pathlib import Path

import meshgpt
from meshgpt.evaluation.authors import PipelineAuthor
from meshgpt.evaluation.evaluate import EvaluationConfig, evaluate_meshes
from meshgpt.evaluation.report import write_report
from meshgpt.evaluation.results import save_result
from meshgpt.evaluation.tables import tables_of

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="lowpoly", help="a bundled model, or runs/transformer/pipeline")
parser.add_argument("--data", default="cc0-lowpoly")
parser.add_argument("--count", type=int, default=12)
parser.add_argument("--points", type=int, default=1024)
parser.add_argument("--max-faces", type=int, default=200)
parser.add_argument("--out", type=Path, default=Path("out/evaluated"))
arguments = parser.parse_args()

train, val = meshgpt.MeshDataset(arguments.data).train_and_val()
pipe = meshgpt.MeshPipeline.from_pretrained(arguments.model)
config = EvaluationConfig(arguments.count, seeds=1, points=arguments.points, max_faces=arguments.max_faces)
author = PipelineAuthor(pipe, arguments.out / "meshes", tell=print, max_faces=arguments.max_faces)

found = evaluate_meshes(author, train, val, config, tell=print)
figures = {"model": arguments.model, "data": arguments.data, **found.figures}
save_result(figures, arguments.out)
for table in tables_of(figures):
    print(f"\n{table.markdown()}")
print(f"\nlook at it: {write_report(figures, arguments.out / 'report.html', found.shown)}")
