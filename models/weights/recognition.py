"""Which variant a folder holds, as its own configuration tells."""

from collections.abc import Iterator

from models.errors import WeightsError
from models.variants import VARIANTS, Variant
from models.weights.folder import WeightsFolder


def recognised(folder: WeightsFolder) -> Variant:
    """The variant of a folder in the diffusers layout; of several that look alike the first in the table.

    Two things cannot be told from a folder: whether a model was distilled (it never counts as such), and
    which of two models of one shape it is (Wan 2.1's image-to-video models for 480p and 720p). Raises
    ``WeightsError`` where it is none of them, or broken.
    """
    folder.index()  # where there is none, say that
    found = next(_matching(folder), None)
    if found is None:
        names = [variant.name for variant in VARIANTS.values() if not variant.distilled]
        raise WeightsError(f"{folder.path} is none of the known variants: {', '.join(names)}.")
    return found


def _matching(folder: WeightsFolder) -> Iterator[Variant]:
    for variant in VARIANTS.values():
        if variant.distilled:
            continue
        try:
            folder.check_variant(variant)
        except WeightsError:
            continue
        yield variant
