"""The HTML report of an evaluation: metrics, charts, and the worst errors drawn.

The page is one file that opens without a network.
"""
