"""The engine: the child process that holds torch and one card's memory.

Nothing outside this folder imports torch. `samplers`, `infotext` and `errors` are pure and import
neither torch nor diffusers, so that their tests run in milliseconds.
"""
