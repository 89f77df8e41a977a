"""The real broker under load: simulated cards over real links, real SDK clients, real databases."""
