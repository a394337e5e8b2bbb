"""Speed in one process or through one server, against genuine upstream and the machine's bounds."""
