"""Is a data set fit to train on? The room behind `python -m train.clips check`."""
