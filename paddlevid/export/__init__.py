"""Export: weights -> a folder with programs, what they need to know and an example, without us."""
