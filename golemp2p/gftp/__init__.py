"""The ``gftp`` command that yapapi and golem-core start for their files (yagna-rest §4.1): a program of its own.

Files stay where they are: it reads and writes them itself, with its own user's rights, and serves them to the node
over one WebSocket. When it ends, what it published is gone. It imports little, because clients wait for its start.
"""
