"""A ROOT in a store: one fetcher process a node fills shard files in the cache, from which all ranks read."""
