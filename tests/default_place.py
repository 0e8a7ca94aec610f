"""Where a task's video gets its name by default."""

from serve_app.files.output_paths import OutputPaths, SavePath


def default_place(outputs: OutputPaths, task_id: str) -> SavePath:
    """Return the place of the name that a task's video gets if the client names none."""
    place = outputs.place_of(outputs.default_path(task_id))
    assert place is not None
    return place
