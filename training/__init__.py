"""Training: from annotated studies to an INT8 bundle that carries its own proof."""
