"""Datasets: one file a format, all behind `training.datasets.sample.Dataset`."""
