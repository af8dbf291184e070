"""The durable log, snapshots and recordings: bytes on disk, nothing about what they mean."""
