"""The traffic simulator: prompts arrive at random, the model answers, the exchange becomes an event."""
