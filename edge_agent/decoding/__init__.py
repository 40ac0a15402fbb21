"""Decoding of study images in supervised processes, because the bytes are hostile.

The agent's side is `decoder`, `pool`, `job` and `zygote_client`; the processes' side is `zygote`,
`worker` and `sandbox`. They exchange JSON (`protocol`, `responses`) and pixels (`shared_memory`).
"""
