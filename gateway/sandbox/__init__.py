"""The simulated upstream: apart, with its own models, so that a shared mistake cannot hide.

`server.run_sandbox` and `server.main_sandbox` start it; docs/sandbox.md describes what it does.
Nothing here may import another part of `gateway`.
"""
