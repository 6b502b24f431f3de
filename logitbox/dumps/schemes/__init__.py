"""Token types from the tokens themselves: schemes that say which token of a batch is of which type.

`regex.RegexTypes`, `agent.AgentText`, `coordinate.CoordinateJson` and `decision.DecisionSlot` are schemes,
`combine.combine` puts several together, `answers.resolve_answers` finds the token ids of answer words.
A scheme needs torch and numpy only; answers need neither torch nor transformers.
"""
