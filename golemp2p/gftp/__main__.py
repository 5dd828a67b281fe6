"""``python -m golemp2p.gftp``."""

from golemp2p.gftp.main import main

main()
