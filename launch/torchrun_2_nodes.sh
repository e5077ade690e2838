#!/bin/bash
# Two nodes of 8 GPUs without a scheduler. Not run on hardware by us.
#
# Run on both nodes, with the first node's address and the node's own number, and the same overrides:
#   launch/torchrun_2_nodes.sh 10.0.0.1 0 recipe=modernbert_base hardware=2x8xh100 run.name=base-1
#   launch/torchrun_2_nodes.sh 10.0.0.1 1 recipe=modernbert_base hardware=2x8xh100 run.name=base-1
#
# The same two lines again resume. run.folder and the shards (or their remote) must be visible from both nodes.
#
# To stop with a checkpoint, send SIGTERM to this process on either node: torchrun passes it to its ranks, gives them 30
# seconds, and ends with 1; status.json in the run's folder has the code 85, "start me again". Where a step and a checkpoint
# take longer, send SIGUSR1 to one rank alone instead (host and pid in status.json). A node that is lost ends the ranks of
# the other within hardware.rank_timeout_s, by name.
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: $0 <address of node 0> <node number: 0 or 1> [override ...]" >&2
    exit 2
fi
first_node=$1 node_rank=$2
shift 2

export OMP_NUM_THREADS=8
exec torchrun \
    --nnodes=2 \
    --node-rank="${node_rank}" \
    --nproc-per-node=8 \
    --max-restarts=0 \
    --master-addr="${first_node}" \
    --master-port=29500 \
    train.py "$@"
