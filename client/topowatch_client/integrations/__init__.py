"""One file a framework, each imported by those who use that framework alone."""
