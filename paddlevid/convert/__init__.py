"""Weights of other projects -> ours: names.py, conversion.py, python -m paddlevid.convert."""
