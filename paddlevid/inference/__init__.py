"""What infer.py does with a network: evaluate lists, predict clips and frames, run streams."""
