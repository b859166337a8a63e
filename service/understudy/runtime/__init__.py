"""What the service needs of the operating system: processes, their sockets, their memory and their turns on a core."""
