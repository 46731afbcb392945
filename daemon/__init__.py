"""The service: read `daemon/pipeline.py` first, `daemon/app.py` wires it together."""
