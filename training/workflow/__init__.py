"""Workflow: the stages from a trained run to a published bundle, and the starter bundle."""
