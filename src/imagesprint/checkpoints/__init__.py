"""Checkpoints: what one holds (format), where it lies (naming), writing it (writer), which stay (retention).

weight_files reads the files of weights that anybody wrote without executing anything in them, weights takes them into
a model.
"""
