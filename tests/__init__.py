"""The tests. A package by itself, since an installed one may bring a folder of the same name."""
