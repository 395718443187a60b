"""Train a tokenizer on a data set: the script to copy and change for a model of your own.

python examples/03_train_tokenizer.py --data cc0-lowpoly --preset tiny --out runs/tokenizer
accelerate launch examples/03_train_tokenizer.py --data my_data/ --preset base
"""

import argparse

import torch

from meshgpt import Augmentation, MeshAutoencoder, MeshAutoencoderTrainer, MeshDataset
from meshgpt.training.presets import preset

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", default="tiny", help="a folder from `meshgpt data build`, or a bundled name")
parser.add_argument("--preset", default="tiny")
parser.add_argument("--steps", type=int, help="instead of the preset's")
parser.add_argument("--out", default="runs/tokenizer")
parser.add_argument("--resume", action="store_true")
arguments = parser.parse_args()

train, val = MeshDataset(arguments.data).train_and_val()
chosen = preset("tokenizer", arguments.preset)
settings = {**chosen.training, "checkpoint_folder": arguments.out}
if arguments.steps:
    settings["num_train_steps"] = arguments.steps

torch.manual_seed(0)
model = MeshAutoencoder(**chosen.model)
trainer = MeshAutoencoderTrainer(model, train, val_dataset=val, augment=Augmentation(), **settings)
if arguments.resume:
    trainer.resume()
print(trainer())
