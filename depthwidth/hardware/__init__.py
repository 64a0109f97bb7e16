"""Devices and the load on them: accelerators, division of a model, training memory, optimiser states, time of a step."""
