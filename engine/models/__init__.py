"""The network: one decoder for all model families, switched by a spec, and its rotary embeddings."""
