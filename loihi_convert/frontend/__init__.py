"""From what the user brings to a `ReluNetwork`: read the module, follow its operations, lower them."""
