"""How this process computes, and what it reads and writes: signals, files, locks, the cache. No domain type."""
