"""Train a transformer on the tokens of a data set, and save tokenizer and transformer as one pipeline.

python examples/04_train_transformer.py --data cc0-lowpoly --out runs/transformer
accelerate launch examples/04_train_transformer.py --data my_data/ --tokenizer runs/tokenizer --preset base
"""

import argparse
from pathlib import Path

import torch

from meshgpt import (
    Augmentation,
    MeshAutoencoder,
    MeshDataset,
    MeshPipeline,
    MeshTransformer,
    MeshTransformerTrainer,
    PatchTokenizer,
)
from meshgpt.training.presets import preset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="tiny", help="a folder from `meshgpt data build`, or a bundled name")
parser.add_argument("--max-faces", type=int, default=200)
parser.add_argument("--tokenizer", help="a learned one: the folder of a run, or a bundled name; else patches")
parser.add_argument("--preset", default="tiny")
parser.add_argument("--steps", type=int, help="instead of the preset's")
parser.add_argument("--variants", type=int, help="augmented forms of each mesh, instead of the preset's")
parser.add_argument("--out", type=Path, default=Path("runs/transformer"))
parser.add_argument("--resume", action="store_true")
arguments = parser.parse_args()

train, val = MeshDataset(arguments.data).filter(max_faces=arguments.max_faces).train_and_val()
tokenizer = MeshAutoencoder.from_pretrained(arguments.tokenizer) if arguments.tokenizer else PatchTokenizer()
chosen = preset("transformer", arguments.preset)
settings = {**chosen.training, "checkpoint_folder": str(arguments.out)}
if arguments.steps:
    settings["num_train_steps"] = arguments.steps

torch.manual_seed(0)
model = MeshTransformer(tokenizer, **chosen.model_for(tokenizer))
trainer = MeshTransformerTrainer(
    model,
    train,
    val_dataset=val,
    augment=Augmentation(),
    num_variants=arguments.variants or chosen.num_variants,
    **settings,
)
if arguments.resume:
    trainer.resume()
print(trainer())
if trainer.is_main:
    averaged = MeshTransformer.from_pretrained(arguments.out, tokenizer)  # the run's folder is a model, too
    MeshPipeline(tokenizer, averaged).save_pretrained(arguments.out / "pipeline")
