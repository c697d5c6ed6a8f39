"""Augmentation while a network trains: a torchvision transform and a data set. No Ray is used."""
