"""Download of models from the Hugging Face hub: fetched once, kept in the hub's own cache folder."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub  # which imports what downloads when that is first used: few replicas do
from huggingface_hub import constants

from models.engine import EngineSettings
from models.errors import WeightsError, first_line
from models.weights_source import HubModel

_PARTS = (
    "transformer",
    "transformer_2",
    "vae",
    "text_encoder",
    "tokenizer",
    "image_encoder",
    "image_processor",
    "scheduler",
)
_KINDS = ("json", "txt", "model", "safetensors")
"""File types to fetch: configurations, vocabularies (such as ``spiece.model``) and tensors; none runs code
when read.
"""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model at one commit, in a local folder."""

    folder: Path
    commit: str


def local_folder(settings: EngineSettings) -> Path:
    """Return the folder of ``settings.weights``, fetching a hub model that is not in the cache yet.

    Call this once before starting several processes on one model: each by itself might find a branch at a
    different commit. Raises ``WeightsError``.
    """
    if isinstance(settings.weights, Path):
        return settings.weights
    snapshot = fetch(settings.weights, offline=settings.offline, without=settings.replaced)
    _logger.info("%s is commit %s", settings.weights, snapshot.commit)
    return snapshot.folder


def fetch(model: HubModel, *, offline: bool = False, without: Collection[str] = ()) -> Snapshot:
    """Fetch a model at its revision, without the tensors of the parts in ``without``.

    Uses the cache alone with ``offline``, with ``HF_HUB_OFFLINE`` in the environment, and if the hub does not
    answer. Raises ``WeightsError`` if the model cannot be fetched, or the cache lacks any of it.
    """
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                model.id,
                revision=model.revision,
                allow_patterns=_patterns(without),
                local_files_only=offline,
            )
        )
    except Exception as error:  # errors of the connection, the response and the disk have no common type
        raise WeightsError(_sentence(model, error, offline or constants.is_offline_mode())) from error
    return Snapshot(folder, commit=folder.name)


def cached_file(model: HubModel, name: str) -> Path | None:
    """The file of that name in the model, None where this machine has not fetched it. Asks no hub."""
    found = huggingface_hub.try_to_load_from_cache(model.id, name, revision=model.revision)
    return Path(found) if isinstance(found, str) else None


def _patterns(without: Collection[str]) -> list[str]:
    wanted = [f"{part}/*.{kind}" for part in _PARTS for kind in _KINDS]
    unwanted = {f"{part}/*.safetensors" for part in without}
    return ["model_index.json", *(pattern for pattern in wanted if pattern not in unwanted)]


def _sentence(model: HubModel, error: Exception, offline: bool) -> str:
    from huggingface_hub.errors import (  # which import an HTTP client
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, IncompleteSnapshotError):
        return f"Not all files of {model} are in the cache, and {_no_more(offline)}."
    if isinstance(error, LocalEntryNotFoundError):
        return f"{model} is not in the cache, and {_no_more(offline)}."
    if isinstance(error, RevisionNotFoundError):
        return f"The hub's {model.id} has no revision {model.revision}."
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no folder {model.id}, and no such model on the hub for this user (see HF_TOKEN)."
    return f"{model} could not be fetched from the hub: {first_line(error)}"


def _no_more(offline: bool) -> str:
    return "nothing is fetched offline" if offline else f"{constants.ENDPOINT} does not answer"
