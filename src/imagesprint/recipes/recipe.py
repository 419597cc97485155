"""The recipe: one frozen table that holds whatever changes a training's result, and nothing else."""

from dataclasses import dataclass, field

from imagesprint.errors import RecipeError


@dataclass(frozen=True)
class Phase:
    """One row of the table: a half-open range of epochs (or of steps) with all that holds in it.

    Exactly one of `epochs` and `steps` is given. `lr` is the rate at the range's start and the one it runs
    towards. `batch_size` is global: the images of one optimizer step on all ranks together; `micro_batch` of
    them pass through the network, and share batch-norm statistics, at once. `source` names the variant of the
    data to read (`full` or the shorter side in pixels), `min_area` the least share of the image a crop covers.
    `micro_batch` may be 0, written auto: `train` then puts the largest that fits into memory in its place.
    """

    epochs: tuple[int, int] | None
    lr: tuple[float, float]
    method: str
    batch_size: int
    micro_batch: int = field(metadata={"auto": True})
    image_size: int
    source: str = "full"
    min_area: float = 0.08
    steps: tuple[int, int] | None = None

    @property
    def micro_batches(self) -> int:
        """Micro-batches in one step, over all ranks. Raises RecipeError where `micro_batch` is not settled yet."""
        if not self.micro_batch:
            raise RecipeError(
                "micro_batch is auto: a number takes its place only when a training begins",
                "give a number, such as --set 'phases.*.micro_batch=32'",
            )
        return self.batch_size // self.micro_batch


@dataclass(frozen=True)
class Recipe:
    """A whole training: its phases and everything else that changes its result.

    Pixel values (`mean`, `std`) are in 0..255. The defaults are those of today's usual ResNet training; each
    built-in recipe states where it differs and why.
    """

    name: str
    phases: tuple[Phase, ...]
    seed: int = 0

    # network
    model: str = "resnet50"
    strides: str = "v1.5"  # where a bottleneck strides: "v1" in its first 1×1, "v1.5" in its 3×3 convolution
    zero_init: bool = True  # last batch-norm scale of each block starts at 0 (Goyal et al. 2017, section 5.1)
    blurpool: bool = False  # low-pass filter before striding (Zhang 2019)
    init: str = ""  # weights to start from: a checkpoint or a torchvision-named state dict
    bn_momentum: float = 0.1
    bn_eps: float = 1e-5

    # optimizer and loss
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # per step; 0: no moving average
    precision: str = "auto"  # auto: bf16 where the hardware multiplies it fast, else fp32
    loss_scale: float = 0.0  # fp16 only; 0: dynamic

    # training images
    crop: str = "random_resized"
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    min_object_covered: float = 0.1  # distorted_bbox only
    flip: bool = True
    antialias: bool = True
    bad_records: str = "stop"  # or "substitute": the next sound sample of the epoch's order stands in, and is counted
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    # evaluation: shorter side to eval_resize, then the centre eval_image_size square
    eval_source: str = "full"
    eval_resize: int = 256
    eval_image_size: int = 224
    eval_batch_size: int = 256
    eval_every: int = 1  # epochs; 0: at the end alone


MODELS = ("resnet18", "resnet20", "resnet34", "resnet50", "resnet101", "resnet152")  # or timm:NAME
METHODS = ("linear", "exponential", "cosine", "constant")
CROPS = ("random_resized", "distorted_bbox", "center")
PRECISIONS = ("auto", "bf16", "fp16", "fp32", "fp64")
STRIDES = ("v1", "v1.5")
BAD_RECORDS = ("stop", "substitute")
