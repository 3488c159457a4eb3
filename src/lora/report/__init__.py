"""Reports made from a run's record alone. They compute no metric."""
