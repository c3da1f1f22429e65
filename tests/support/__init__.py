"""What several test files use: networks, files, an oracle, programs that run in processes of their own."""
