"""Takes batches of items over gRPC, checks and deduplicates them, and acks what the log has on disk."""
