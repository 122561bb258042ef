"""Which changes help most: the ablation and the best recipe."""
