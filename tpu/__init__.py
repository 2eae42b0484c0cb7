"""Where it runs: mesh, start-up, preemption."""
