"""The decoder's step in C, for CPUs with AVX-512: sources, how they are built, and how they are loaded."""
