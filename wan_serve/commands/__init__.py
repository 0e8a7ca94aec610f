"""The commands of ``wan-serve`` that work with a running service; they need typer and rich besides httpx."""
