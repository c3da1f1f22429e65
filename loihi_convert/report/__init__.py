"""Reports of run folders: sections with tables and charts, written as one HTML page and as Markdown."""
