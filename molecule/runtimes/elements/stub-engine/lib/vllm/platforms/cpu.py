"""What engine.py changes before it starts vLLM on a CPU."""


class CpuPlatform:
    """As in vLLM."""

    @classmethod
    def check_and_update_config(cls, config: object) -> None:
        """As in vLLM."""
