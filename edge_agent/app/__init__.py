"""The only place where the agent's parts meet: settings in, a running agent out.

`agent` connects the parts, `run` ties an agent to a process and its signals. `models` and
`security` turn the settings into what `agent` connects.
"""
