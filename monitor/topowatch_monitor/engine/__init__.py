"""Run state, pure and incremental, and what carries it: shards, Ray actors, the in-process twin."""
