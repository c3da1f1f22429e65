"""What a netx file contains, native or external, and the differences between two."""
