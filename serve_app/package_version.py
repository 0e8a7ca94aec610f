"""Version of the installed package."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the installed version, ``0`` when the package runs from a folder that is not installed."""
    try:
        return version("wan-serve")
    except PackageNotFoundError:
        return "0"
