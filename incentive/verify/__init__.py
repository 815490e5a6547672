"""Answer checking and the processes that do it: whatever a model writes is judged in a process that can be killed."""
