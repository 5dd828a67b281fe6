"""Pure rules: no I/O, no concurrency, no clock. Time is an argument (seconds since the epoch, float)."""
