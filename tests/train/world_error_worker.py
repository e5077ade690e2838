"""Joins the ranks, then the rank that is named meets an error of its own while the others wait. python ... RANK"""

import sys

from padless.train.world import adopt_torchrun_environment, start_world

adopt_torchrun_environment()

from padless.cli import exit_code_of  # noqa: E402
from padless.config.schema import HardwareConfig  # noqa: E402
from padless.errors import DataError  # noqa: E402


def main() -> None:
    world = start_world(HardwareConfig("cpu", None, 1, "fp32", "sdpa", False, 1, True, 60.0, "off"))
    assert world.gather(world.rank) == list(range(world.size))
    if world.rank == int(sys.argv[1]):
        raise DataError(f"shard 7 of rank {world.rank} is damaged", "copy it again")
    world.barrier()
    world.barrier()


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
