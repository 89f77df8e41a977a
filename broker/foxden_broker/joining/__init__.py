"""How machines join an account: links, enrolled keys, and proofs at the start of each link."""
