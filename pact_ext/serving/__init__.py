"""Reduction inside vLLM, as its plugin: `plugin.register` is the entry point, the variable PACT_VLLM the budget.

An engine sets up slots and lengths before its decoder runs, so what is served is a method that acts on what the
projector gives and whose count is known beforehand. Nothing here knows the hooks of `pact_ext.models`.
"""
