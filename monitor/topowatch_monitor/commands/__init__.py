"""The commands of `topowatch`, one file each."""
