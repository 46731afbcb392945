"""Making the embedded models from the tiny language: a chat model and two guards, in minutes on one core."""
