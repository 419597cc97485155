"""From source images to shards. No torch. Here: what `prepare` does where nothing else is asked for."""

VARIANTS = ("full", "320", "160")  # what the built-in recipes but demo read
IMAGE_FORMAT = "jpeg"
QUALITY = 90  # of JPEGs that are encoded anew
MAX_REJECTED = 0.001  # as a fraction of all files
SOURCES = ("ilsvrc", "kaggle", "webdataset", "parquet", "synset-tars", "class-folders")  # the first that fits
