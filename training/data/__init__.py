"""Data sets of annotated radiographs: import, checks, fusion of readers' boxes, splits, export.

A data set is a folder of PNG images and tables (`dataset`). Synthetic ones are written in the same
form by `training.synthetic`.
"""
