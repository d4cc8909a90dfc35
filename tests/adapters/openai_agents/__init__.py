"""The OpenAI Agents SDK: our session beside its own, and its own suite with ours."""
