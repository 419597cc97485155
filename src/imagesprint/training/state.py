"""All that a training carries from one step to the next, and the sums of a step over micro-batches and ranks.

Batch-norm statistics, metrics and gradients lie behind one another, the gradients from the network's end to its
beginning, as a backward pass makes them. The tensor is cut into buckets; over several ranks each is summed as soon
as its last gradient is there, while the backward pass goes on. Layout and buckets follow from the network alone, and
buckets are summed one after another, so no bit depends on timing. (DistributedDataParallel forms its buckets anew
after the first iteration, so a resumed run sums in another order than an uninterrupted one.)
"""

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from imagesprint.checkpoints.format import CheckpointContent, TrainingCheckpoint, check_weights, load_weights
from imagesprint.checkpoints.weights import start_from
from imagesprint.console import Console
from imagesprint.errors import CheckpointError, RecipeError
from imagesprint.images.decoders import VARIABLE as DECODER_VARIABLE
from imagesprint.model.batch_norm import BatchNorm2d, batch_norms
from imagesprint.model.building import build_model
from imagesprint.model.depths import frozen_names
from imagesprint.model.fusing import fuse_where_it_works
from imagesprint.recipes.library import differences
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_dict
from imagesprint.runs.ranks import Ranks
from imagesprint.training.optimizer import AUTOCAST, build_optimizer, loss_scaler, restore_optimizer, weight_dtype

METRICS = ("loss", "correct1", "correct5", "images")
ALIGNMENT = 16  # bytes: the widest load of a GPU's thread; optimizer and reduction kernels are slower without
BUCKET_BYTES = 25 * 2**20  # what DistributedDataParallel takes by default (bucket_cap_mb)


class TrainingState:
    """Network, optimizer, moving average and loss scale after `step` steps, on one device.

    Built from the recipe's seed it is the state before the first step, but for `init` (see `start`).
    `train_seconds` is the time spent on steps so far, `compile_seconds` that on compiling them, `wall_seconds` that on
    everything but compiling; `bad_records` is how often another record stood in for a bad one, on all ranks;
    `overflows` how many steps' fp16 gradients overflowed. All of them count over all interruptions. `frozen` is what
    does not move at present, as a phase's `freeze` names it. `recalibrated` is whether the run is at its end and its
    batch norm's statistics were measured anew (`recalibration.py`). `not_fused` is why a GPU trains without our own
    kernels, if it does though it was to: without `fused` they are not even tried. `class_counts`, int64 [C], is how
    many training images each class has; without it, as many as any other.
    """

    def __init__(
        self,
        recipe: Recipe,
        classes: tuple[str, ...],
        device: torch.device,
        class_texts: tuple[str, ...] = (),
        fused: bool = True,
        class_counts: Tensor | None = None,
    ) -> None:
        self.recipe = recipe
        self.classes = classes
        self.class_texts = class_texts or classes
        self.class_counts = torch.ones(len(classes), dtype=torch.int64) if class_counts is None else class_counts
        self.step = 0
        self.train_seconds = 0.0
        self.wall_seconds = 0.0
        self.compile_seconds = 0.0
        self.bad_records = 0
        self.overflows = 0
        self.recalibrated = False
        network = build_model(recipe, len(classes))
        self.network = network.to(device, weight_dtype(recipe)).train()
        self.not_fused = fuse_where_it_works(self.network, AUTOCAST.get(recipe.precision)) if fused else None
        self.sums = StepSums(self.network)
        self.frozen = ""
        freezes = {"none", *(phase.freeze for phase in recipe.phases)}
        self._frozen_names = {freeze: frozen_names(self.network, freeze) for freeze in sorted(freezes)}
        self.freeze("none")
        self._check_statistics()
        self.optimizer = build_optimizer(recipe, self.network)
        self.scaler = loss_scaler(recipe, device)
        # The network's own tensors, which keep their places: what is loaded is copied into them.
        self._averaged = {key: value for key, value in self.network.state_dict().items() if value.is_floating_point()}
        self.average = {key: value.clone() for key, value in self._averaged.items()} if recipe.ema_decay else {}

    def start(self, console: Console) -> None:
        """Take the weights that the recipe's `init` names, if any, and tell which."""
        if self.recipe.init:
            start_from(self.network, self.recipe.init, console, self.recipe)
            for key, value in self.average.items():
                value.copy_(self._averaged[key])

    def _check_statistics(self) -> None:
        """Raise RecipeError where batch norm's statistics are to be measured in the end and all stand still by then."""
        recipe = self.recipe
        still = self._left_out(recipe.phases[-1].freeze)[1]
        if recipe.recalibrate_bn and not set(batch_norms(self.network)) - still:
            why = "the last phase freezes them all" if still else f"{recipe.model} has no batch norm"
            raise RecipeError(
                f"recalibrate_bn: {recipe.recalibrate_bn} steps measure nothing: {why}", "set recalibrate_bn=0"
            )

    def freeze(self, freeze: str) -> None:
        """From here on leave as it is what a phase of the recipe with this `freeze` does not train, and train the rest.

        No gradient is computed of it, and the optimizer passes over it, weight decay and momentum included. Of its
        batch norms, or of all, or of none, as the recipe's `freeze_norm` says, the running statistics stand still, and
        normalise; of the others those of the micro-batch do.
        """
        if freeze == self.frozen:
            return
        self.frozen = freeze
        parameters, norms = self._left_out(freeze)
        self.network.train()
        for norm in norms:
            norm.eval()
        self.sums.leave_out(parameters, norms)

    def _left_out(self, freeze: str) -> tuple[set[nn.Parameter], set[BatchNorm2d]]:
        """The parameters that a phase with this `freeze` does not train, and the batch norms that stand still in it."""
        names = self._frozen_names[freeze]
        parameters = {parameter for name, parameter in self.network.named_parameters() if name in names}
        stand_still = {"none": set[nn.Parameter](), "frozen": parameters, "all": set(self.network.parameters())}
        norms = {norm for norm in batch_norms(self.network) if norm.weight in stand_still[self.recipe.freeze_norm]}
        return parameters, norms

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average of weights and statistics by one step, where the recipe keeps one."""
        if self.average:
            weight = 1 - self.recipe.ema_decay
            torch._foreach_lerp_(list(self.average.values()), list(self._averaged.values()), weight)

    @contextmanager
    def holding_evaluated_weights(self) -> Iterator[nn.Module]:
        """The network with the weights to judge (see below); what is changed in them inside stays changed."""
        self._exchange_average()
        try:
            yield self.network
        finally:
            self._exchange_average()

    @torch.no_grad()
    def _exchange_average(self) -> None:
        for key, value in self.average.items():
            own = self._averaged[key].clone()
            self._averaged[key].copy_(value)
            value.copy_(own)

    def evaluated_weights(self) -> dict[str, Tensor]:
        """The state dict to judge: the moving average where there is one, else the weights themselves."""
        return {**self.network.state_dict(), **self.average}

    def checkpoint(self, num_train: int, data: str, decoder: str) -> CheckpointContent:
        """Tensors and plain types only. `data` is the fingerprint of the `num_train` images, `decoder` what decodes.

        The tensors are those that the next step changes, on their device: see `checkpoints.writer.Snapshot`.
        """
        return {
            "model": self.network.state_dict(),
            "ema": self.evaluated_weights() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "train_seconds": self.train_seconds,
            "wall_seconds": self.wall_seconds,
            "compile_seconds": self.compile_seconds,
            "bad_records": self.bad_records,
            "overflows": self.overflows,
            "recalibrated": self.recalibrated,
            "recipe": to_dict(self.recipe),
            "classes": list(self.classes),
            "class_texts": list(self.class_texts),
            "num_train": num_train,
            "data": data,
            "decoder": decoder,
            "torch": str(torch.__version__),
        }

    def checkpoint_like(self) -> list[Tensor]:
        """Tensors of the kinds and in the numbers that a checkpoint has."""
        of_optimizer = (tensor for row in self.optimizer.state.values() for tensor in row.values())
        return [*self.network.state_dict().values(), *of_optimizer, *self.average.values()]

    def restore(self, held: TrainingCheckpoint, data: str, decoder: str, force_decoder: bool) -> None:
        """Take over the checkpoint `held`.

        Raises CheckpointError where it does not fit the recipe's network, and where it was made from other data or,
        without `force_decoder`, with another decoder: what came out then would not be what an uninterrupted run gives.
        """
        if held.missing:
            raise CheckpointError(
                f"{held.path} lacks {', '.join(held.missing)}: it cannot be resumed from",
                "start a new run from its weights: --output NEW --set init=PATH",
            )
        others = differences(replace(held.recipe, bad_records=self.recipe.bad_records), self.recipe)
        if others:
            listed = "; ".join(f"{change.key} was {change.a!r}, is {change.b!r}" for change in others[:5])
            raise CheckpointError(
                f"{held.path} is of another recipe: {listed}", "resume in the run that it was made in, or use its own"
            )
        if held.data != data:
            raise CheckpointError(
                f"{held.path} was made with data {held.data!r}, this is {data!r}",
                "resume with the same data, or start a new run with another --output",
            )
        if held.decoder != decoder and not force_decoder:
            raise CheckpointError(
                f"{held.path} was made with decoder {held.decoder!r}, this is {decoder!r}: its pixels differ",
                f"{DECODER_VARIABLE}={held.decoder} in the environment keeps to the former, "
                f"{DECODER_VARIABLE}={decoder} goes on with the latter",
            )
        self._restore_tensors(held)
        self.step = held.step
        self.train_seconds, self.wall_seconds = held.train_seconds, held.wall_seconds
        self.compile_seconds = held.compile_seconds
        self.bad_records, self.overflows = held.bad_records, held.overflows
        self.recalibrated = held.recalibrated

    def _restore_tensors(self, held: TrainingCheckpoint) -> None:
        if bool(self.scaler.state_dict()) != bool(held.scaler):
            raise CheckpointError(
                f"{held.path}: scaler is {'there' if held.scaler else 'empty'}, the recipe has "
                f"{'none' if held.scaler else 'a dynamic loss scale'}",
                "use another checkpoint",
            )
        if self.average:
            check_weights(held.ema or {}, self.network.state_dict(), f"{held.path}: ema")
        restore_optimizer(self.optimizer, held.optimizer, f"{held.path}: optimizer")
        load_weights(self.network, held.model, f"{held.path}: model")
        self.scaler.load_state_dict(held.scaler)
        for key, value in self.average.items():
            value.copy_((held.ema or {})[key])


class StepSums:
    """Owns the `.grad` of every parameter of `network` that is trained, as views into its flat tensor.

    A step is `clear`, then for each micro-batch a forward pass, `add` and a backward pass, with `overlap` before the
    last of them, then `reduce`, then reading `.grad` and `metrics` and calling `update_running_statistics`.
    """

    def __init__(self, network: nn.Module) -> None:
        # From the network's end to its beginning, as everything below
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad][::-1]
        norms = batch_norms(network)
        statistics = [buffer for norm in norms for buffer in (norm.batch_mean, norm.batch_var)]
        sizes = [tensor.numel() for tensor in (*statistics, *self._parameters)]
        sizes.insert(len(statistics), len(METRICS))
        like = self._parameters[0]
        unit = ALIGNMENT // like.element_size()
        starts = list(accumulate((-(-size // unit) * unit for size in sizes), initial=0))
        self._flat = torch.zeros(starts[-1], dtype=like.dtype, device=like.device)
        pieces = [self._flat[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        self._sums_of_norms = dict(
            zip(norms, zip(pieces[: len(statistics) : 2], pieces[1 : len(statistics) : 2], strict=True), strict=True)
        )
        self.metrics: Tensor = pieces[len(statistics)]  # sums over the step in the order of METRICS
        self._views = {
            # The same strides as the weight (channels_last), so that optimizer kernels need no copy.
            parameter: torch.as_strided(self._flat, parameter.shape, parameter.stride(), piece.storage_offset())
            for parameter, piece in zip(self._parameters, pieces[len(statistics) + 1 :], strict=True)
        }
        self._cut(starts[len(statistics) + 2 :], BUCKET_BYTES // like.element_size())
        self._hooked: set[nn.Parameter] = set()
        self._overlapping: Ranks | None = None
        self._missing: list[int] = []  # gradients that a bucket still waits for
        self._waits: list[Callable[[], None]] = []  # for the buckets whose sum over the ranks has begun
        self.leave_out(set(), set())

    def leave_out(self, parameters: Set[nn.Parameter], norms: Set[BatchNorm2d]) -> None:
        """From here on sum nothing of these, until the next call; all others are trained.

        Their `.grad` is None: optimizers pass over them. `gradients` are those of the others.
        """
        for parameter, view in self._views.items():
            parameter.requires_grad_(parameter not in parameters)
            parameter.grad = view if parameter.requires_grad else None
        self._trained = [parameter for parameter in self._parameters if parameter.requires_grad]
        self.gradients = [self._views[parameter] for parameter in self._trained]
        moving = {norm: sums for norm, sums in self._sums_of_norms.items() if norm not in norms}
        self._statistics = [buffer for norm in moving for buffer in (norm.batch_mean, norm.batch_var)]
        self._statistic_sums = [piece for pieces in moving.values() for piece in pieces]
        self._running = _running_statistics(moving)
        # What lies behind the last gradient is zero on all ranks.
        self._num_used = max(self._bucket_of[parameter] for parameter in self._trained) + 1

    def _cut(self, gradient_ends: list[int], bucket_size: int) -> None:
        """Cut the flat tensor behind the first gradient that fills a bucket, and so on."""
        edges, self._bucket_of = [0], {}
        for parameter, end in zip(self._parameters, gradient_ends, strict=True):
            self._bucket_of[parameter] = len(edges) - 1
            if end - edges[-1] >= bucket_size or end == gradient_ends[-1]:
                edges.append(end)
        self._buckets = [self._flat[start:end] for start, end in pairwise(edges)]

    def clear(self) -> None:
        """Set all sums to zero: the start of a step."""
        self._flat.zero_()

    def add(self, metrics: Tensor) -> None:
        """Add what a micro-batch's forward pass left behind: its batch-norm statistics and `metrics` [len(METRICS)]."""
        self.metrics.add_(metrics)
        if self._statistics:
            torch._foreach_add_(self._statistic_sums, self._statistics)

    def add_gradients(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, all at once by a few kernels, where `backward` takes one for each.

        No hook runs, so it is not for a backward pass that `overlap` was called before.
        """
        gradients = torch.autograd.grad(loss, self._trained)
        torch._foreach_add_(
            self.gradients, [_strided_as(*pair) for pair in zip(gradients, self.gradients, strict=True)]
        )

    def overlap(self, ranks: Ranks) -> None:
        """Say that the next backward pass is the step's last: what it completes is summed over the ranks at once."""
        if ranks.world_size == 1:
            return
        for parameter in self._trained:
            if parameter not in self._hooked:
                self._hooked.add(parameter)
                parameter.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]
        self._missing = [0] * self._num_used
        for parameter in self._trained:
            self._missing[self._bucket_of[parameter]] += 1
        self._overlapping = ranks

    def _on_gradient(self, parameter: nn.Parameter) -> None:
        if self._overlapping is None:  # more micro-batches follow
            return
        self._missing[self._bucket_of[parameter]] -= 1
        while len(self._waits) < self._num_used and self._missing[len(self._waits)] == 0:
            self._start_next(self._overlapping)

    def _start_next(self, ranks: Ranks) -> None:
        self._waits.append(ranks.start_sum(self._buckets[len(self._waits)]))

    def reduce(self, ranks: Ranks) -> None:
        """Sum over all ranks what is not yet, and wait for all: on a GPU its stream waits, not the host."""
        while len(self._waits) < self._num_used:  # all of them after the replay of a CUDA graph: it runs no hooks
            self._start_next(ranks)
        for wait in self._waits:
            wait()
        self._waits.clear()
        self._overlapping = None

    @torch.no_grad()
    def update_running_statistics(self, micro_batches: int) -> None:
        """r ← (1 − m)·r + m·(mean over the step's `micro_batches`), once a step."""
        for momentum, (running, sums) in self._running.items():
            torch._foreach_mul_(running, 1 - momentum)
            torch._foreach_add_(running, sums, alpha=momentum / micro_batches)


def _strided_as(tensor: Tensor, other: Tensor) -> Tensor:
    """The same values in the same places under the strides of `other`, if that is so: the kernels for many tensors want
    them equal, and those of a 1×1 convolution's weights have more than one name.
    """
    fits = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.as_strided(other.shape, other.stride()) if fits else tensor


def _running_statistics(
    sums: Mapping[BatchNorm2d, tuple[Tensor, Tensor]],
) -> dict[float, tuple[list[Tensor], list[Tensor]]]:
    """By momentum: the running statistics that move with it, and what they move to, summed over the step."""
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for norm, totals_of_norm in sums.items():
        running, totals = by_momentum.setdefault(norm.momentum or 0.0, ([], []))
        for statistic, total in zip((norm.running_mean, norm.running_var), totals_of_norm, strict=True):
            if statistic is not None:
                running.append(statistic)
                totals.append(total)
    return by_momentum
