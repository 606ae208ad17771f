"""The launcher: a gang that forms once, workers that are watched, and nothing left behind.

The README of this folder is the map; ``launch.py`` is where to begin to read.
"""
