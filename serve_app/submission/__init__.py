"""Submission of tasks: from a video order to a stored task, independent of HTTP."""
