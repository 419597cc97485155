"""`small` as it was until November 2026: what the recipe of that name is measured against.

    imagesprint train small-2026-11 --data ROOT --output RUN
    imagesprint recipes diff small-2026-11 small

Measured on five kinds of flowers (2,930 training photos, two cores): 81.9 % top-1 in 612 s where the processor has
avx512_bf16, 82.9 % in fp32, in 28 minutes, where it has not. README.md, Results, has the curve.
Four micro-batches a step: it runs on 1, 2 and 4 ranks.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="small-2026-11",
    model="resnet18",
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,  # few images: more than ImageNet's 1e-4, as is usual for CIFAR
    decay_norm_and_bias=False,
    label_smoothing=0.1,
    precision="auto",
    eval_source="160",
    eval_resize=128,
    eval_image_size=112,
    eval_every=2,
    phases=(
        #     epochs    lr            method   batch micro px source min_area
        Phase((0, 2),   (0.02, 0.2),  "linear", 128, 32, 64, "160", 0.25),
        Phase((2, 18),  (0.2, 0.06),  "cosine", 128, 32, 64, "160", 0.25),
        Phase((18, 31), (0.06, 0.0),  "cosine", 128, 32, 96, "160", 0.25),
    ),
)
# fmt: on
