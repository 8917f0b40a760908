"""The semantic cache's place in the server: asked before an engine, told after it, fed with bumps and load.

Nothing is imported here: a server without a cache loads neither an index nor an embedder.
"""
