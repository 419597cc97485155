"""What fewer bits do to an evaluation: the logits and answers of checkpoints in several kinds of arithmetic, on a CPU.

    python benchmarks/evaluation_precision.py RUN|CHECKPOINT... --data ROOT [--json]

Each checkpoint judges the validation split as `evaluate` does, in each of KINDS; tf32 is emulated to the bit, but for
the order of its sums: inputs and weights of convolutions rounded to 10 bits of mantissa, products and sums in fp32, all
else in fp32. A line says how far its logits are from those in fp64, and for how many images its answer is another than
in fp32: another first class; a right one that got wrong, or a wrong one that got right. A tie is an image for which two
classes have the highest logit: which of them counts is chance.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagesprint.checkpoints.weights import TrainedModel, load_model
from imagesprint.cli.output import table, to_json
from imagesprint.evaluating.checkpoints import find_checkpoints
from imagesprint.evaluating.evaluation import evaluation_set, hits
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.records.dataset import Dataset, open_root

TF32_BITS = 10  # of mantissa, of the 23 in fp32

Infer = Callable[[Tensor], Tensor]  # uint8 images [N, H, W, 3] → logits [N, C]


@dataclass(frozen=True)
class Line:
    """A checkpoint, or several together, in one kind of arithmetic; `error` and `worst` are of logits, against fp64."""

    checkpoint: str
    kind: str
    images: int
    top1: int
    top5: int
    first_changed: int
    to_wrong: int
    to_right: int
    top5_changed: int
    ties: int
    error: float  # root of the mean square
    worst: float
    loss: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN|CHECKPOINT")
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--json", action="store_true", help="one JSON value on standard output")
    args = parser.parse_args()
    lines: list[Line] = []
    for path in find_checkpoints(args.paths):
        lines += compare(path, args.data)
        print(path, file=sys.stderr)
    lines += [together([line for line in lines if line.kind == kind]) for kind in KINDS]
    if args.json:
        print(to_json({"bench": "evaluation_precision", "torch": torch.__version__, "lines": [*map(asdict, lines)]}))
    else:
        print(table([field.name for field in fields(Line)], [[*map(shown, vars(line).values())] for line in lines]))
    return 0


def shown(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


@torch.inference_mode()
def compare(path: Path, data: Path) -> list[Line]:
    """A line for each of KINDS."""
    model = load_model(path)
    logits, labels = judged(model, evaluation_set(open_root(data), model))
    plain = logits["fp32"]
    right = hits(plain, labels)
    lines = []
    for kind, found in logits.items():
        now, off = hits(found, labels), found - logits["fp64"]
        best = found.max(1, keepdim=True).values
        lines.append(
            Line(
                checkpoint=path.stem,
                kind=kind,
                images=len(labels),
                top1=int(now[:, 0].sum()),
                top5=int(now[:, 1].sum()),
                first_changed=int((found.argmax(1) != plain.argmax(1)).sum()),
                to_wrong=int((right[:, 0] & ~now[:, 0]).sum()),
                to_right=int((~right[:, 0] & now[:, 0]).sum()),
                top5_changed=int((right[:, 1] != now[:, 1]).sum()),
                ties=int(((found == best).sum(1) > 1).sum()),
                error=float(off.square().mean().sqrt()),
                worst=float(off.abs().max()),
                loss=float(nn.functional.cross_entropy(found, labels)),
            )
        )
    return lines


def judged(model: TrainedModel, dataset: Dataset) -> tuple[dict[str, Tensor], Tensor]:
    """Logits, float64 [N, C], in each of KINDS, and labels, int64 [N]."""
    recipe = model.recipe
    loader = EvaluationLoader(dataset, recipe.eval_image_size, recipe.eval_resize, recipe.eval_batch_size)
    kinds = {kind: of(model) for kind, of in KINDS.items()}
    logits: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    labels = []
    with loader:
        for batch in loader:
            labels.append(batch.labels[batch.mask])
            for kind, infer in kinds.items():
                logits[kind].append(of_images(infer, batch))
    return {kind: torch.cat(parts) for kind, parts in logits.items()}, torch.cat(labels)


def of_images(infer: Infer, batch: Batch) -> Tensor:
    return infer(batch.images)[batch.mask].double()


def in_fp64(model: TrainedModel) -> Infer:
    return copy.deepcopy(model).double()


def in_fp32(model: TrainedModel) -> Infer:
    return model


def in_another_order(model: TrainedModel) -> Infer:
    """In fp32 by PyTorch's own convolutions, not oneDNN's: their sums have another order."""

    def infer(images: Tensor) -> Tensor:
        with torch.backends.mkldnn.flags(enabled=False):
            logits: Tensor = model(images)
        return logits

    return infer


def in_tf32(model: TrainedModel, rounded: Callable[[Tensor], Tensor]) -> Infer:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_(rounded(module.weight))
            module.register_forward_pre_hook(lambda _, args: (rounded(args[0]),))
    return model


def to_nearest(values: Tensor) -> Tensor:
    """Rounded to TF32, halves away from zero, as the GPU's own conversion does (PTX: cvt.rna.tf32.f32)."""
    dropped = 23 - TF32_BITS
    bits = values.contiguous(memory_format=torch.channels_last).view(torch.int32)
    return ((bits + (1 << (dropped - 1))) & (-1 << dropped)).view(torch.float32)


def cut_off(values: Tensor) -> Tensor:
    """The bits beyond TF32's dropped, as where a matrix unit is given fp32 as it is."""
    bits = values.contiguous(memory_format=torch.channels_last).view(torch.int32)
    return (bits & (-1 << (23 - TF32_BITS))).view(torch.float32)


def in_bf16(model: TrainedModel) -> Infer:
    """As training's forward passes are: autocast."""

    def infer(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = model(images)
        return logits

    return infer


KINDS: dict[str, Callable[[TrainedModel], Infer]] = {
    "fp64": in_fp64,
    "fp32": in_fp32,
    "fp32, another order": in_another_order,
    "tf32": lambda model: in_tf32(model, to_nearest),
    "tf32, cut off": lambda model: in_tf32(model, cut_off),
    "bf16": in_bf16,
}


def together(lines: Sequence[Line]) -> Line:
    """The counts added up, the errors' mean square and worst."""
    counts = {
        field.name: sum(getattr(line, field.name) for line in lines) for field in fields(Line) if field.type is int
    }
    return Line(
        checkpoint=f"all {len(lines)}",
        kind=lines[0].kind,
        **counts,
        error=(sum(line.error**2 for line in lines) / len(lines)) ** 0.5,
        worst=max(line.worst for line in lines),
        loss=sum(line.loss for line in lines) / len(lines),
    )


if __name__ == "__main__":
    sys.exit(main())
