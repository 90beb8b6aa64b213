"""The ground floor: the stage contract, manifests, configuration, runtime, the one training loop."""
