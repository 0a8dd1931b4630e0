"""Builds Headway's images from their Dockerfiles, with or without a container engine."""
