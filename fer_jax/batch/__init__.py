"""Many runs: the plan, local processes, jobs of a cluster, and their status."""
