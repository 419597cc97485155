"""TFRecord shards with an index: reading, writing, checking. No torch."""
