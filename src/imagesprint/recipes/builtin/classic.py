"""ResNet-50 as it was trained in 2018: 500,000 steps of one batch size, the learning rate divided by ten four times.

    imagesprint train classic --data ROOT --output RUN

Cited (TensorFlow, 2018): 74.05 % top-1 by the 224 px centre crop of shorter side 256; about 100 epochs.

The strides are assumed to be v1, in the first 1×1 convolution of a bottleneck, as TensorFlow's ResNet of 2018
had them. Weight decay falls on everything, the input has its mean subtracted and is not scaled, and crops are
TensorFlow's sample_distorted_bounding_box with its own bilinear resize, which does not antialias.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="classic",
    model="resnet50",
    strides="v1",
    zero_init=False,
    momentum=0.9,
    nesterov=False,
    weight_decay=1e-4,
    decay_norm_and_bias=True,
    crop="distorted_bbox",
    aspect=(3 / 4, 4 / 3),
    min_object_covered=0.1,
    antialias=False,
    mean=(123.68, 116.78, 103.94),
    std=(1.0, 1.0, 1.0),
    eval_source="full",
    eval_resize=256,
    eval_image_size=224,
    phases=(
        #     epochs lr          method  batch micro px source min_area steps
        Phase(None, (0.1, 0.1),   "constant", 256, 64, 224, "full", 0.05, (0, 150_000)),
        Phase(None, (0.01, 0.01), "constant", 256, 64, 224, "full", 0.05, (150_000, 300_000)),
        Phase(None, (1e-3, 1e-3), "constant", 256, 64, 224, "full", 0.05, (300_000, 400_000)),
        Phase(None, (1e-4, 1e-4), "constant", 256, 64, 224, "full", 0.05, (400_000, 450_000)),
        Phase(None, (1e-5, 1e-5), "constant", 256, 64, 224, "full", 0.05, (450_000, 500_000)),
    ),
)
# fmt: on
