"""Bundles: one model version as one archive, with its golden cases, model card and evidence."""
