"""Query functions, one a transaction, and the two engines that run them."""
