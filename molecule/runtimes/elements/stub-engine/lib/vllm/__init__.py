"""Stands for vLLM in the images of this scenario."""
