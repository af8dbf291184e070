"""The topowatch daemon and its command line."""
