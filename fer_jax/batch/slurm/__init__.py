"""The runs of a batch as jobs of a SLURM cluster, `--executor slurm`."""
