"""`r1pipe eval`: any model on any suite, as a run of its own."""
