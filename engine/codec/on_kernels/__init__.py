"""The codec by the operators of `engine/kernels/native`, built from the graphs' own layers."""
