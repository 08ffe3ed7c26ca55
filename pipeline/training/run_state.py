"""The state of a run in one process: set up from its latest checkpoint, and saved to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from marey.configs.errors import InputError, MareyError
from marey.models.encoders.encoder import Encoder
from marey.models.encoders.recompute import recompute_blocks
from marey.models.encoders.small_maps import suit_small_maps
from marey.models.method import Method
from marey.models.objectives.distributed import world_size
from marey.pipeline.runtime.storage import Folder
from marey.pipeline.training.checkpoint import is_finite, load_state, save_state, weights
from marey.pipeline.training.collate import Room
from marey.pipeline.training.gradient_exchange import replicated
from marey.pipeline.training.job import Job, build_method, synchronised, training_device
from marey.pipeline.training.lockstep import Used, agreed
from marey.pipeline.training.optim import build_optimizer, restore
from marey.pipeline.training.record import Record
from marey.pipeline.training.start import started_method
from marey.pipeline.training.weight_average import WeightAverage


class RunState:
    """What a step changes and a checkpoint holds: networks, optimiser, average, samples used.

    Raises InputError when the run's latest checkpoint does not fit the method.
    """

    def __init__(self, job: Job) -> None:
        trainer = job.config.trainer
        self.job = job
        self.device = training_device(trainer.device)
        self.room = Room()
        state = load_state(Folder(job.run))
        self.method = _networks(job, self.device, begins=state is None)
        self.average = (
            None if trainer.ema is None else WeightAverage(self.method.exported, trainer.ema)
        )
        self._shards = None
        self.model: nn.Module = self.method
        if trainer.parallel == "fsdp" and world_size() > 1:
            from marey.pipeline.training.run_shards import RunShards  # takes long to import

            self._shards = RunShards(self.method, self.average, self.device)
        # shards have other parameters than the method had before
        self.optimizer = build_optimizer(self.method, trainer.optimizer, self.method.constant_lr)
        self.used = Used(state, job.corpus_of if job.members else None)
        self.trained = self.used.trained
        """Samples trained on, those of earlier attempts too."""
        self.step = 0
        self.warnings: list[str] = []
        """What a person should know of the checkpoints that were passed over."""
        if state is not None:
            self.step, self.warnings = int(state["step"]), state["passed_over"]
            self._restore(state)
        self.saved = self.step
        """Step of the last checkpoint, 0 where there is none."""
        del state  # a memory bank alone can be gigabytes
        if self._shards is None:
            self.model = replicated(self.method, self.device)
        if trainer.compile:
            self.model.compile()

    @contextlib.contextmanager
    def whole(self) -> Iterator[tuple[Method, Encoder]]:
        """The method, and the encoder that is probed and exported: the average, where one is kept.

        Every process calls it; where they hold shards, the first alone has both whole inside.
        """
        if self._shards is not None:
            with self._shards.whole() as both:
                yield both
            return
        yield self.method, self.method.exported if self.average is None else self.average.encoder

    def total_steps(self) -> int:
        """Optimiser steps of the whole run, as far as is known by now."""
        return self.job.total_steps(self.step, self.trained)

    def checkpoint(self, record: Record | None, *, wait: bool = False) -> None:
        """Save the state and export the encoder; every process calls it, rank 0 has the record.

        Shards are written while training goes on, unless it is to `wait`. Raises MareyError, and
        writes nothing, when some weight is not finite in any process.
        """
        content: dict[str, Any] = {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            content["average"] = self.average.state_dict()
        states = [dict(self.method.named_parameters()), content["optimizer"]]
        states += [weights(content[name]) for name in ("method", "average") if name in content]
        if not agreed(is_finite(states)):
            raise self.diverged("the weights are not finite")
        self.used.merge()
        run, refused = Folder(self.job.run), dict(self.used.refused)
        if self._shards is not None:
            self.saved = self._shards.finish() or self.saved
            self._shards.save(run, self.step, content, refused, self.used.position)
        elif record:
            save_state(run, self.step, {**content, "refused": refused}, self.used.position)
        with self.whole() as (_, encoder):
            if record:
                record.export(encoder, self.job.provenance | {"step": self.step})
        if self._shards is not None and wait:
            self.saved = self._shards.finish()
        if world_size() > 1:
            dist.barrier()
        if self._shards is None:
            self.saved = self.step

    def diverged(self, what: str) -> MareyError:
        """The error of a run whose loss or weights are not finite, with what to do about it."""
        advice = "a lower trainer.optimizer.lr, or trainer.optimizer.clip_norm=1"
        if not self.saved:
            return MareyError(
                f"{what} at step {self.step}; begin again in the same -o with {advice}"
            )
        return MareyError(
            f"{what} at step {self.step}; the checkpoint and the encoder of step {self.saved} are "
            f"good and were kept: go on from there with --resume and {advice}"
        )

    def _restore(self, state: dict[str, Any]) -> None:
        """Load a checkpoint. Raises InputError where it is not of this method as it is now."""
        own = (self.method, self.optimizer, self.average)
        try:
            if "shards" in state:
                from marey.pipeline.training.run_shards import load_sharded

                optimizer = load_sharded(Folder(self.job.run), state, *own)
                averaged = any(name.startswith("average.") for name in state["shards"]["tensors"])
            else:
                if self._shards is not None:
                    from marey.pipeline.training.run_shards import as_shards

                    state = as_shards(state, *own)
                self.method.load_state_dict(state["method"])
                optimizer, averaged = state["optimizer"], "average" in state
                if self.average is not None and averaged:
                    self.average.load_state_dict(state["average"])
            restore(self.optimizer, optimizer)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"the checkpoint of step {state['step']} in {self.job.run} (marey "
                f"{state.get('marey', 'of an older version')}) does not fit {self.job.config.name} "
                f"as this version builds it: {reason}; start a new run with another -o"
            ) from error
        if self.average is not None and not averaged:  # it begins as a copy
            self.average.load_state_dict(self.method.exported.state_dict())


def _networks(job: Job, device: torch.device, *, begins: bool) -> Method:
    """The method on its device, ready to train, with the weights of the run's seed.

    begins: whether the run is at its first step, and starts from weights of others if it is to.
    """
    starts = begins and job.config.encoder.weights is not None
    method = started_method(job.config)[0] if starts else build_method(job.config, fetch=begins)
    if job.config.trainer.recompute:
        recompute_blocks(method.encoder)
    method.prepare(job.corpus)
    if world_size() > 1 and device.type == "cuda" and job.config.trainer.sync_batch_norm:
        method = synchronised(method)
    method = method.to(device).train()
    if device.type == "cpu":
        for part in method.modules():
            if isinstance(part, Encoder):
                suit_small_maps(part)
    return method
