"""Names that programs on this machine serve over WebSockets (yagna's gsb), and their use: files for providers.

A program binds a name such as ``/public/gftp/<id>`` and answers questions about it. ``services`` knows who serves
what, ``channel`` is one program's socket, ``files`` makes of it the files that providers read and write.
"""
