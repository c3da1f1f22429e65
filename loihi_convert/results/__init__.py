"""From what a backend returns to figures: evaluate, tables, pictures, run folders."""
