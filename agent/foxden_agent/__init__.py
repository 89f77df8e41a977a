"""The agent: looks after one machine's cards and serves them over an outbound link."""
