"""Changes of what the agent runs: the slots that hold activated bundles.

Which bundle runs, and how a change is made, is decided in `app.model_manager`.
"""
