"""An OpenAI-compatible API on the local engine: `incentive serve MODEL`."""
