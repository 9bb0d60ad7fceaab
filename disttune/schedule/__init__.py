"""The decision core: a pure state machine of trials, workers, budgets and the best so far."""
