"""The detection network: its construction, the loading of weights, and pruning."""
