"""kubectl and helm, as ``scripts/kube_tools`` fetches them."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import ROOT, Objects, rendered
from tests.needed import needed


def program(name: str) -> Path:
    """Return a program's path."""
    path = Path(sys.prefix) / "kube" / name
    return needed(path if path.exists() else None, name, "scripts/kube_tools")


@pytest.fixture(scope="session")
def kubectl() -> Path:
    return program("kubectl")


@pytest.fixture(scope="session")
def helm() -> Path:
    return program("helm")


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory, kubectl: Path) -> Objects:
    """The objects of the demo's overlay with every component."""
    folder = tmp_path_factory.mktemp("everything").resolve()
    kuberay = Path(os.path.relpath(ROOT / "deploy/kuberay", folder))
    names = sorted(path.name for path in (ROOT / "deploy/kuberay/components").iterdir())
    text = {
        "resources": [str(kuberay / "overlays/demo-1gpu")],
        "components": [str(kuberay / "components" / name) for name in names],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return rendered(kubectl, "kustomize", folder)
