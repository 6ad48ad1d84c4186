"""The doctor: a machine, a config, its lists and a step of training -> a page of findings."""
