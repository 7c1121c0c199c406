"""Many runs: what is planned, what is finished, the worker processes, sweeps."""
