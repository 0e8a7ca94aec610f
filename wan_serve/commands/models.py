"""``wan-serve models``: what the service makes videos with."""

from wan_serve.commands.connection import AsJson, KeyFile, Url, connect
from wan_serve.commands.terminal import print_json, print_table
from wan_serve.service import DEFAULT_URL, Model


def models(url: Url = DEFAULT_URL, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """List the served models with their sizes, defaults and LoRAs."""
    with connect(url, key_file) as client:
        found = client.models()
    if as_json:
        print_json([model.document for model in found])
    else:
        print_table(("model", "makes", "sizes", "length", "steps", "LoRAs"), map(_row, found))


def _row(model: Model) -> tuple[str, ...]:
    defaults, sizes = model.document["defaults"], model.document["sizes"]
    return (
        model.name,
        ", ".join(model.tasks),
        ", ".join(dict.fromkeys(f"{size['tier']} {size['ratio']}" for size in sizes)),
        f"{defaults['num_frames'] / defaults['fps']:.1f} s",
        str(defaults["infer_steps"]),
        ", ".join(model.loras),
    )
