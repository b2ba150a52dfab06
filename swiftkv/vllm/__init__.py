"""SwiftKV on unmodified vLLM: prompt tokens leave after layer l, AcrossKV groups share one KV cache.

`plugin` is what vLLM loads by itself (entry point `vllm.general_plugins`); nothing in vLLM is patched. Engines for the
stages of the suite are opened by `swiftkv.engines`.
"""
