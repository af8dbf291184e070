"""The demonstration: four real trainings, watched by a real daemon."""
