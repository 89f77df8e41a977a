"""The icon in the tray: a small program of its own beside the agent, which talks to its page.

Read in this order: menu.py (what the menu says, pure), icons.py (what the icon looks like),
hosts.py (which way of this system shows an icon), program.py (the loop around pystray), starting.py
(how the agent starts it, or why not). A tray that crashes takes nothing of the agent with it.
"""
