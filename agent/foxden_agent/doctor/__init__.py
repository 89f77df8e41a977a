"""`foxden doctor`: looks at what an agent needs, and says what to do about each thing it finds.

facts.py gathers (the edge), judging.py decides (pure), bundle.py packs what helps somebody else to
help, command.py prints.
"""
