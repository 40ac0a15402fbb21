"""The command line of the edge agent: `hilum-edge`, and `make demo`.

`main` declares the commands and their options; each command has a module of its own. Nothing else
imports this package.
"""
