"""How full the queue is, and when a task's turn comes."""
