"""From the user's CNN to a `ReluNetwork`: read the module, trace its operations, lower them."""
