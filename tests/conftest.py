"""Its place puts `tests/` on the path, so that every folder below can import `cases`."""
