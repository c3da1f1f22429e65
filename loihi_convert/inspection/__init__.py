"""What is in a netx file, whoever wrote it, and what differs between two."""
