"""ResNet-50 in 90 epochs, the budget of `classic` done right: about 450,000 steps of 256 images.

    imagesprint train baseline90 --data ROOT --output RUN

Published for this schedule: 76.1 to 76.5 % top-1 by the 224 px centre crop of shorter side 256. torchvision's
ResNet50_Weights.IMAGENET1K_V1 reaches 76.13 (divided by ten every 30 epochs), Goyal et al. 2017 76.4 (batch 256,
divided at epochs 30, 60 and 80: the steps taken here). Both stride in the 3×3 convolution (v1.5). As in Goyal et
al., each block's last scale starts at zero and batch norm is not decayed; nor are biases here. The five epochs of
warm-up are torchvision's later ones: linear, from a hundredth of the rate. Not yet trained here: a target.
"""

from imagesprint.recipes.recipe import Phase, Recipe

# fmt: off
RECIPE = Recipe(
    name="baseline90",
    model="resnet50",
    strides="v1.5",
    zero_init=True,
    momentum=0.9,
    weight_decay=1e-4,
    decay_norm_and_bias=False,
    crop="random_resized",
    antialias=True,
    eval_source="full",
    eval_resize=256,
    eval_image_size=224,
    phases=(
        #     epochs    lr            method      batch micro px source min_area
        Phase((0, 5),   (0.001, 0.1), "linear",   256, 64, 224, "full", 0.08),
        Phase((5, 30),  (0.1, 0.1),   "constant", 256, 64, 224, "full", 0.08),
        Phase((30, 60), (0.01, 0.01), "constant", 256, 64, 224, "full", 0.08),
        Phase((60, 80), (1e-3, 1e-3), "constant", 256, 64, 224, "full", 0.08),
        Phase((80, 90), (1e-4, 1e-4), "constant", 256, 64, 224, "full", 0.08),
    ),
)
# fmt: on
