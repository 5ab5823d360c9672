# The only place where commands are written down.
