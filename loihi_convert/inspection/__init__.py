"""The contents of a netx file, native or external, and the differences between two files."""
