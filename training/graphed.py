"""Training at a GPU's own pace: all of a step, from drawing crops to moving weights, is one CUDA graph.

A step of a small network is a great many short kernels; asked for one by one, a GPU can wait for Python. Recorded once
and replayed, they follow each other without it. That fixes what a step is: one GPU, crops from a pool on it
(training.pool), no resuming. Where there is no GPU the same steps are taken one by one.

Gradients are clipped at twice the mean norm of late: networks without batch norms now and then meet a batch that would
throw them off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from metro_ros.core.errors import ConfigError
from training.averaging import move_averages
from training.checkpoint import RECORD, WEIGHT_PREFIX, WEIGHTS, make_record
from training.data import Pooling
from training.datasets.augment import AugmentConfig
from training.device_augment import CameraChanges, augment
from training.module import MetroModule
from training.pool import Pool
from training.schedule import learning_rate
from training.tensor_file import save_tree

WARM_UP = 3
"""Steps at learning rate 0 before the recording: libraries choose their kernels, the optimiser makes its state."""
_CLIP = 2.0
"""Gradients are at most so many times as long as of late."""
_NORM_DECAY = 0.99
_LOST = 50
"""Steps in a row without a finite gradient that end training."""
_AHEAD = 4
"""Steps that may wait for the GPU: the learning rate follows the clock."""


class GraphedSteps:
    """The steps of one module on one device.

    Args:
        module: on the device already; its network is trained in place.
        fields: of the pool, see `training.pool.Pool.fields`.
        changes: of rows, each time they are drawn.
    """

    def __init__(self, module: MetroModule, fields: Mapping[str, Tensor], changes: AugmentConfig) -> None:
        self.module, self._fields, self._changes = module, fields, changes
        device = next(module.parameters()).device
        self.device, self.decay = device, module.config.ema_decay or 0.0
        on_gpu = device.type == "cuda"
        groups = [{**group, "lr": torch.zeros((), device=device)} for group in module.groups()]
        self._optimizer = torch.optim.AdamW(
            groups, weight_decay=module.config.weight_decay, fused=on_gpu, capturable=on_gpu
        )
        self._weights = [value for group in groups for value in group["params"]]
        changing = {id(value) for value in self._weights}
        fixed = {name for name, value in module.metro.named_parameters() if id(value) not in changing}
        self._values = {name: value for name, value in module.metro.state_dict().items() if name not in fixed}
        self.averages = {name: value.clone() for name, value in self._values.items()}
        """Of all that changes, by its name in the network's state dict."""
        self._rows = torch.ones((), device=device)
        self._norm = torch.zeros((), device=device)
        self._loss = torch.zeros((), device=device)
        self._lost = torch.zeros((), device=device)
        self._generator = torch.Generator(device).manual_seed(1_000_003 * module.seed + 1)
        self._on_cpu = torch.Generator().manual_seed(module.seed)
        self._replay: Callable[[], None] = self._step

    def record(self) -> None:
        """Warm up, and on a GPU record the graph. No weight changes but the statistics of batch norms."""
        if self.device.type != "cuda":
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        self._optimizer.zero_grad(set_to_none=True)
        # The pool's thread goes on meanwhile, in streams of its own.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        for state in self._optimizer.state.values():
            for value in state.values():
                value.zero_()
        self._norm.zero_()
        self._replay = graph.replay

    def take(self, rate: float, rows: int) -> None:
        """One step at a learning rate, from the pool's first `rows` rows. Does not wait for the GPU."""
        for group in self._optimizer.param_groups:
            group["lr"].fill_(rate * group["share"])
        self._rows.fill_(float(rows))
        self._replay()

    def loss(self) -> float:
        """Of the last step; waits for it. Raises ConfigError when no step of late has had a gradient."""
        if self._lost >= _LOST:
            raise ConfigError("training diverged", expected="finite gradients", got=f"none in {_LOST} steps")
        return float(self._loss)

    def _step(self) -> None:
        module, generator = self.module, self._generator
        drawn = torch.rand(module.config.batch, generator=generator, device=self.device, dtype=torch.float64)
        chosen = (drawn * self._rows).long()
        rows = {name: field.index_select(0, chosen) for name, field in self._fields.items()}
        mesh, ratio = module.metro.mesh, module.network.mask_ratio
        batch = augment(rows, mesh, self._changes, CameraChanges(), ratio, generator)
        self._optimizer.zero_grad(set_to_none=True)
        loss = module.loss(batch, self._on_cpu)
        loss.backward()
        self._clip()
        self._optimizer.step()
        move_averages(list(self.averages.values()), list(self._values.values()), self.decay)
        self._loss.copy_(loss.detach())

    @torch.no_grad()
    def _clip(self) -> None:
        """A gradient without a finite length becomes none."""
        gradients = [value.grad for value in self._weights if value.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm)
        usual = torch.where(self._norm > 0, self._norm, norm)
        factor = (_CLIP * usual / norm.clamp(min=1e-12)).clamp(max=1.0)
        for gradient in gradients:
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        torch._foreach_mul_(gradients, torch.where(finite, factor, torch.zeros_like(factor)))
        heard = torch.minimum(norm, _CLIP * usual)
        self._lost.copy_(torch.where(finite, 0.0, self._lost + 1.0))
        self._norm.copy_(torch.where(finite, torch.lerp(heard, usual, _NORM_DECAY), self._norm))


def fit(
    module: MetroModule,
    pool: Pool,
    pooling: Pooling,
    out: Path,
    log: Callable[[Mapping[str, float], int], None],
    log_every: int,
    save_every_s: float,
) -> None:
    """Train until the module's length is over or it is asked to stop; its network then has the averaged weights.

    Args:
        pool: entered; on the module's device. pooling: how many rows to wait for, and how they change.
        out: checkpoint, every so many seconds and at the end. log: is told the figures of every `log_every`-th step.

    Raises:
        SourceError: the pool's source fails. ConfigError: the loss is no number any more.
    """
    pool.wait_for(pooling.wait)
    module.train()
    steps = GraphedSteps(module, pool.fields, pooling.augment)
    with pool.replacing:
        steps.record()
    began = saved = time.monotonic()
    events: list[torch.cuda.Event] = []
    step = 0
    try:
        while not module.stop_requested:
            module.seconds = time.monotonic() - began
            share = module.length.share(step, module.seconds)
            if share >= 1.0:
                break
            rate = learning_rate(module.config, module.length, step, share)
            pool.check()
            with pool.replacing:
                steps.take(rate, len(pool))
            step += 1
            module.batches = step
            if steps.device.type == "cuda":
                event = torch.cuda.Event()
                event.record()
                events.append(event)
                if len(events) > _AHEAD:
                    events.pop(0).synchronize()
            if step % log_every == 0:
                figures = {"loss": steps.loss(), "learning_rate": rate}
                log({**figures, "seconds": module.seconds, "drawn": pool.arrived}, step)
            if time.monotonic() - saved > save_every_s:
                save(module, steps.averages, out)
                saved = time.monotonic()
    finally:  # what is learned is kept, whatever ended it
        module.metro.load_state_dict(steps.averages, strict=False)
        save(module, {}, out)


def save(module: MetroModule, changed: Mapping[str, Tensor], path: Path) -> None:
    """A checkpoint of the module's network with these weights in place of its own."""
    weights = {**module.metro.state_dict(), **changed}
    record = make_record(module.metro.mesh, module.network, module.bundle)
    save_tree({RECORD: record, WEIGHTS: {WEIGHT_PREFIX + name: value for name, value in weights.items()}}, path)
