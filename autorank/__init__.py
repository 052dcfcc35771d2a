"""AutoML for click-through and conversion ranking models, in JAX (arXiv 2311.07870)."""
