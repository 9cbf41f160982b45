"""Plans a run before it is paid for: stages, tokens, arithmetic, memory and time, without GPU or weights."""
