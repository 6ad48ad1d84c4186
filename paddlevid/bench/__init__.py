"""Measurements: `python -m paddlevid.bench train|infer|read|prepare`, one JSON line each."""
