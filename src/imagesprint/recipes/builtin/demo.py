"""The CIFAR ResNet-20 on scikit-learn's 1,797 digits, first at 16 px, then at 24: the whole way in a minute.

    imagesprint demo

Target: at least 97 % top-1 on two cores. Digits are neither flipped nor much distorted; the crops stay mild.
Four micro-batches a step: it runs on 1, 2 and 4 ranks.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="demo",
    model="resnet20",  # He et al. 2015, section 4.2: three stages of 16, 32 and 64 channels
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    decay_norm_and_bias=False,
    precision="fp32",
    aspect=(0.9, 1.1),
    flip=False,
    mean=(128.0, 128.0, 128.0),
    std=(64.0, 64.0, 64.0),
    eval_source="full",
    eval_resize=24,
    eval_image_size=24,
    phases=(
        #     epochs   lr           method    batch micro px source min_area
        Phase((0, 2),  (0.02, 0.2), "linear", 64, 16, 16, "16",   0.6),
        Phase((2, 8),  (0.2, 0.1),  "linear", 64, 16, 16, "16",   0.6),
        Phase((8, 14), (0.1, 0.0),  "cosine", 64, 16, 24, "full", 0.6),
    ),
)
# fmt: on
