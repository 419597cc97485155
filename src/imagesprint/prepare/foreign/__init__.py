"""Shards that other programs wrote: finding, reading and indexing them where they lie."""
