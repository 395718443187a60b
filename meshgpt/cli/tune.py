"""`meshgpt tune MODEL DATA`: a model gets better at what it writes by writing, as `training.tuning` says."""

import argparse
from pathlib import Path

from meshgpt.cli.runs import add_run, finish
from meshgpt.cli.settings import changed
from meshgpt.cli.train import datasets
from meshgpt.errors import ConfigError


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    tune = commands.add_parser("tune", parents=[shared], help="make a model better by what it writes")
    tune.add_argument("model", help="a pipeline folder, a Hub name, or a bundled name such as lowpoly")
    tune.add_argument("data", help="a data set whose meshes say what to ask for: folder, .zip, .npz or a bundled name")
    tune.add_argument("--max-faces", type=int, default=200, help="ask like meshes of at most so many (default: 200)")
    tune.add_argument("--no-judge", action="store_true", help="do not let the recognizer of shapes say what is alike")
    tune.add_argument("--no-val", action="store_true", help="ask like all meshes, hold none out")
    rank = "store what tuning changes in MODEL alone, of matrices the part of this rank: 8 is kilobytes (default: all)"
    tune.add_argument("--adapter-rank", type=int, metavar="RANK", help=rank)
    add_run(tune)
    tune.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from meshgpt.evaluation.judge import ShapeJudge
    from meshgpt.pipeline import MeshPipeline
    from meshgpt.training.rewards import RewardConfig
    from meshgpt.training.settings import TrainerConfig
    from meshgpt.training.tuning import DEFAULTS, TuningConfig, TuningTrainer

    if arguments.adapter_rank is not None and arguments.adapter_rank < 1:
        raise ConfigError(f"--adapter-rank must be at least 1, got {arguments.adapter_rank}")
    configs = ((TrainerConfig, DEFAULTS), (TuningConfig, {}), (RewardConfig, {}, "rewards."))
    training, tuning, rewards = changed(configs, arguments)
    data, val = datasets(arguments)
    pipeline = MeshPipeline.from_pretrained(arguments.model)
    follows = "points" in pipeline.transformer.config.kinds
    trainer = TuningTrainer(
        pipeline,
        data,
        val_dataset=val,
        judge=None if arguments.no_judge or follows else ShapeJudge(),
        rewards=RewardConfig.from_dict(rewards),
        tuning=TuningConfig.from_dict(tuning),
        checkpoint_folder=str(arguments.out),
        **training,
    )
    finish(trainer, arguments)
    if trainer.is_main:
        rank = arguments.adapter_rank
        kept = {} if rank is None else {"adapter_of": arguments.model, "rank": rank}
        folder = trainer.tuned().save_pretrained(Path(arguments.out) / "pipeline", **kept)
        print(f"next: meshgpt {'retopo SHAPE' if follows else 'generate'} --model {folder} --view")
