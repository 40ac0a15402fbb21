"""The content check's training: is an image a frontal chest, upright, with bright bone?

Real and painted images train a small network; thresholds come from leaving patients out.
"""
