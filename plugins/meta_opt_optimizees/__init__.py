"""The optimizees that ship with meta-opt: plugins like anybody else's, which import only ``meta_opt.api`` of it."""
