"""Composer's Trainer with a step of our own: the same sums, and one read of the device a step.

    counts of all ranks          on the host, over gloo: masked, nominal tokens, segments, masked by stream
    microbatches                 forward, backward; loss and losses by stream add up on the device
    gradient norm                on the device
    ONE read                     loss, losses by stream and norm, stacked; the guard decides by them
    optimizer

Composer's own step reads the device six times and more, copies every microbatch, and runs eight events for each. One
read there has to be: a bad step must never reach the weights, so loss and norm are known on the host before the
optimizer steps. Nobody reads again after it; metrics and progress take the numbers from the step's record.
"""

import contextlib
import datetime
import platform
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed
from composer import Trainer
from composer.core import Event
from composer.core.types import TrainerMode
from composer.distributed import ddp_sync_context
from composer.utils import collect_env
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from padless.data.batch import PackedBatch
from padless.data.collate import Block
from padless.data.loader import StepLoader
from padless.train.callbacks.record import StepRecord
from padless.train.composer_model import count_segments, count_tokens, cross_entropy_of, row_losses
from padless.train.world import World

# A Trainer asks for the CPU's name and does not use it. py-cpuinfo, whom Composer asks, measures a frequency to answer,
# in a process of its own: a second before the first step.
collect_env.get_cpu_model = platform.machine


class StepTrainer(Trainer):
    """Trains one phase.

    Args:
        record: the step record; gets loss, gradient norm and losses by stream before the guard looks at them.
        loader: the phase's loader, which is also Composer's ``train_dataloader``.
        world: the ranks.
        composer: everything else is Composer's.
    """

    def __init__(self, record: StepRecord, loader: StepLoader, world: World, **composer: Any) -> None:
        self._record, self._loader, self._world = record, loader, world
        self._streams = sorted(record.plan.phase.streams)
        self._counts = (0, 0)
        super().__init__(**composer)

    def _train_batch(self, use_grad_scaling: bool) -> Any:  # noqa: ARG002  (Composer's signature)
        """Train one step; None tells Composer that there is no loss for it to read from the device."""
        state = self.state
        batches: list[PackedBatch] = state.batch
        self.engine.run_event(Event.BEFORE_TRAIN_BATCH)
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        rows = [self._rows_by_stream(*each) for each in zip(batches, self._loader.last_step.own_blocks, strict=True)]
        counts = self._world.add_up(self._own_counts(batches, rows))
        self._counts = (counts[1], counts[2])
        loss, losses_S = self._compute(batches, rows, counts[0])
        self._read(loss, losses_S, counts[3:])
        self.engine.run_event(Event.AFTER_TRAIN_BATCH)
        for optimizer in state.optimizers:
            optimizer.step()
        self.first_train_batch_complete = True

    def _iter_dataloader(self, trainer_mode: TrainerMode) -> Generator[list[PackedBatch], None, None]:  # noqa: ARG002
        """Yield the loader's steps. It ends on no rank, so that none has to ask the others whether theirs has."""
        steps = iter(self._loader)
        while True:
            self.engine.run_event(Event.BEFORE_DATALOADER)
            try:
                batches = next(steps)
            except StopIteration:
                return
            yield batches

    def _accumulate_time_across_ranks(
        self,
        num_samples: int | float,  # noqa: ARG002
        num_tokens: int,  # noqa: ARG002
        batch_time: datetime.timedelta,
    ) -> tuple[int, int, datetime.timedelta]:
        """Return segments and nominal tokens of all ranks, which are known already."""
        tokens, segments = self._counts
        return segments, tokens, batch_time

    def _rows_by_stream(self, batch: PackedBatch, blocks: Sequence[Block]) -> Tensor:
        """Return for each row of the masked positions the number of its stream; on the host."""
        numbers = np.array([self._streams.index(block.stream) for block in blocks])
        block_tokens = batch.input_ids_T.shape[0] // len(blocks)
        return torch.from_numpy(numbers[batch.masked_positions_M.numpy() // block_tokens])

    def _own_counts(self, batches: Sequence[PackedBatch], rows: Sequence[Tensor]) -> list[int]:
        """Return masked tokens, nominal tokens, segments, and masked tokens by stream, of this rank."""
        by_stream = sum(
            np.bincount(rows_M.numpy()[: batch.num_masked], minlength=len(self._streams))
            for batch, rows_M in zip(batches, rows, strict=True)
        )
        tokens = count_tokens(batches)
        return [tokens["loss_generating"], tokens["total"], count_segments(batches), *np.asarray(by_stream).tolist()]

    def _compute(self, batches: Sequence[PackedBatch], rows: Sequence[Tensor], masked: int) -> tuple[Tensor, Tensor]:
        """Run all microbatches forward and backward; return this rank's share of the loss, and its sums by stream.

        What is returned is cross-entropy alone; what is differentiated has the z-loss in it.

        A microbatch counts by its masked tokens over the mean of the ranks: DDP averages gradients over the ranks, so
        the step's are those of the mean over all masked tokens.
        """
        device, scale = self._world.torch_device, self._record.loss_scale
        loss, losses_S = torch.zeros((), device=device), torch.zeros(len(self._streams), device=device).double()
        if device.type == "cuda":
            batches, rows = [each.pin() for each in batches], [each.pin_memory() for each in rows]
        for number, (batch, rows_M) in enumerate(zip(batches, rows, strict=True)):
            share = batch.num_masked / (masked / self._world.size) if masked else 0.0
            with self._syncing(is_last=number + 1 == len(batches)):
                microbatch_loss: Tensor = self.state.model(batch)
                loss += cross_entropy_of(self.state.model) * share
                (microbatch_loss * (share * scale.factor if scale else share)).backward()
            losses_M = row_losses(self.state.model)
            if losses_M is not None and len(self._streams) > 1:
                own_M = rows_M.to(device, non_blocking=True)[: losses_M.shape[0]]
                losses_S.index_add_(0, own_M, losses_M.double())
        return loss, losses_S

    def _syncing(self, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the last microbatch's gradients are averaged over the ranks."""
        if not isinstance(self.state.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return ddp_sync_context(self.state, is_last, self._ddp_sync_strategy)

    def _read(self, loss: Tensor, losses_S: Tensor, masked_S: Sequence[int]) -> None:
        """Put loss, losses by stream and gradient norm into the record: the one read of the device in a step."""
        record = self._record
        gradients = [parameter.grad for parameter in self.state.model.parameters() if parameter.grad is not None]
        if record.loss_scale is not None:
            for gradient in gradients:
                gradient.mul_(1.0 / record.loss_scale.factor)
        sums = torch.cat([loss.double().view(1), losses_S])
        if self._world.size > 1:
            torch.distributed.all_reduce(sums)
        norm = torch.nn.utils.get_total_norm(gradients).double().view(1)
        total, *by_stream, record.grad_norm = torch.cat([sums, norm]).tolist()
        record.loss = float(np.float32(total)) / self._world.size
        record.stream_losses = {}
        if len(self._streams) > 1 and row_losses(self.state.model) is not None:
            named = zip(self._streams, by_stream, masked_S, strict=True)
            record.stream_losses = {name: summed / masked for name, summed, masked in named if masked}
