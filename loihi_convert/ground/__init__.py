"""What every room stands on: arrays, options, files and progress; it imports only the errors."""
