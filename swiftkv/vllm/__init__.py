"""SwiftKV on unmodified vLLM: prompt tokens leave after layer l, AcrossKV groups share one KV cache.

`plugin.py` is what vLLM loads by itself (entry point `vllm.general_plugins`); `engine.py` opens engines for the
other stages of the suite. Nothing in vLLM is patched.
"""
