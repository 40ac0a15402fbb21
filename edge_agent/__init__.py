"""The edge agent: chest X-ray detection on a box inside the hospital. Research use only."""
