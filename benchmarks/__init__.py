"""Lab: what the product is measured with. It imports everything; nothing imports it."""
