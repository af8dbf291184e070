"""Version 1 of the wire format. Generated; regenerate with `make protos`."""
