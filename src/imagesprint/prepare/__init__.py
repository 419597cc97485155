"""From source images to shards. No torch."""
