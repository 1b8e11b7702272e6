"""What the image's build asks about models."""


class ModelRegistry:
    """As in vLLM."""

    models: dict[str, object] = {}  # noqa: RUF012 -- as in vLLM
