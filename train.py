"""Train: ``python train.py [recipe=...] [key=value ...]``. Composes the configuration, checks it, runs it."""

from padless.processes import begin_rank, holding_stop_signals

if __name__ == "__main__":
    begin_rank()  # before the imports: a stop signal means code 85 from here on

import os
import sys

import hydra
from omegaconf import DictConfig

from padless.cli import exit_code_of
from padless.config.check import check, ranks_to_check
from padless.config.compose import compose
from padless.config.load import load_config


def train(cfg: DictConfig) -> None:
    """Run a composed configuration."""
    config = load_config(cfg)
    check(config, ranks_to_check(config, os.environ))
    with holding_stop_signals():  # torch and Composer only once the configuration is known to be right
        from padless.train.run import run
    run(config)


@hydra.main(config_path="yamls", config_name="pretrain", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Hydra's entry; a mistake of the user's ends with exit code 2 and no traceback."""
    sys.exit(exit_code_of(lambda: train(cfg)))


if __name__ == "__main__":
    words = [word for before, word in zip(sys.argv, sys.argv[1:], strict=False) if before not in ("--cfg", "-c")]
    settings = [word for word in words if not word.startswith("-")]  # without Hydra's own, such as --cfg job
    sys.exit(exit_code_of(lambda: compose(settings)) or main())  # our message for a wrong override
