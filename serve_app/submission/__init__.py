"""From a video order to a stored task; knows no HTTP."""
