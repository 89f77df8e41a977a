"""The contract: messages, link rules, state tables and limits that every room agrees on."""
