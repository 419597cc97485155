"""ResNet-50 in 36 epochs of small, then growing images: the accuracy of MLPerf's target in minutes on eight GPUs.

    imagesprint train sprint --data ROOT --output RUN --processes 8

ROOT holds the variants 160 and 320. Target: at least 75.9 % top-1 by the 224 px centre crop of shorter side 232, in
what 15.6 epochs at 224 px compute. Nobody has run it yet: docs/sprint.md argues each line from what others published.
`imagesprint plan sprint --gpus 8 --gpu h100` says how long it takes by published speeds.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="sprint",
    model="resnet50",
    zero_init=True,
    shortcut="pool",
    momentum=0.9,
    weight_decay=5e-5,
    decay_norm_and_bias=False,
    label_smoothing=0.1,
    ema_decay=0.9931,  # halves in 100 steps
    eval_source="320",
    eval_resize=232,
    eval_image_size=224,
    eval_every=4,
    phases=(
        #     epochs    lr          method    batch micro px  source min_area
        Phase((0, 4),   (0.1, 2.0), "linear", 2048, 256, 128, "160", 0.08),
        Phase((4, 20),  (2.0, 1.0), "linear", 2048, 256, 128, "160", 0.08),
        Phase((20, 28), (1.0, 0.5), "linear", 2048, 256, 160, "320", 0.08),
        Phase((28, 36), (0.5, 0.0), "linear", 2048, 256, 176, "320", 0.08),
    ),
)
# fmt: on
