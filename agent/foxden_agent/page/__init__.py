"""The owner's page: what the agent does, why, and what it may do, in the owner's own browser.

Served on loopback alone. Read in this order: seen.py (what is looked at of a running agent),
status.py (the same as JSON), timeline.py, today.py, plots.py; first_run.py with plugs.py (what
joining and installing have to offer); keys.py and guard.py (who may look, and who may not);
routes.py, server.py (the only two that import starlette and uvicorn), whereabouts.py and call.py
(how `foxden page` and the tray find it).
"""
