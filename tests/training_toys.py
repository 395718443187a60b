"""A small model, data of uneven sizes and an objective, on which the trainer's promises are tested in milliseconds."""

import dataclasses

import torch
from torch import nn

from meshgpt.checkpoint import Pretrained
from meshgpt.config import Config
from meshgpt.training.examples import Examples
from meshgpt.training.objective import Losses, Objective
from meshgpt.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class ToyConfig(Config):
    width: int = 8
    dropout: float = 0.0


class Toy(nn.Module, Pretrained):
    config_class = ToyConfig
    part = "toy"

    def __init__(self, config=None, **fields):
        super().__init__()
        self.config = config = config or ToyConfig(**fields)
        self.net = nn.Sequential(nn.Linear(3, config.width), nn.Tanh(), nn.Dropout(config.dropout))
        self.head = nn.Linear(config.width, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, rows):
        return self.head(self.net(rows))[:, 0]


class ToyExamples(Examples):
    """Example i has 1 + i % 5 rows."""

    def __init__(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        super().__init__([torch.randn(1 + i % 5, 3, generator=generator) for i in range(count)])

    @property
    def sizes(self):
        return torch.tensor([len(rows) for rows in self.dataset]).numpy()


class ToyObjective(Objective):
    """The mean, over rows, of the squared error of the sum of a row."""

    def collate(self, examples):
        return torch.cat(list(examples))

    def weight(self, batch):
        return float(len(batch))

    def losses(self, model, batch):
        error = (model(batch) - batch.sum(dim=1)).square()
        return Losses(error.mean(), {"largest": error.max().detach()}, counts={"largest": 1.0})


def toy_trainer(folder, model=None, count=21, objective=None, **keywords):
    """A trainer of the toy; equal calls train equally."""
    if model is None:
        torch.manual_seed(5)
        model = Toy(dropout=keywords.pop("dropout", 0.0))
    settings = {
        "num_train_steps": 10,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "progress": False,
        "checkpoint_every": 1000,
    }
    settings |= {"checkpoint_folder": str(folder)} | keywords
    examples = settings.pop("examples", None) or ToyExamples(count)
    return Trainer(model, examples, objective or ToyObjective(), **settings)


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
