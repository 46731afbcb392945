"""When a training run starts by itself: rules over the store, each of whose crossings fires once."""
