"""The wire format of topowatch: messages, the ingest service and the frame they lie in on disk."""
