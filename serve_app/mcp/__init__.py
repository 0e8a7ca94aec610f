"""The MCP server: tools for language models over a running service, which it knows by HTTP alone."""
