"""A plugin for meta-opt: an optimizee and a learned-optimizer architecture."""
