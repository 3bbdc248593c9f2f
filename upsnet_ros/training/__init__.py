"""Training: targets, losses, optimiser, trainer."""
