"""Shared by the unit tests: nothing in them needs a network, a GPU or a hypervisor."""
